"""`padd report`: the HTML page of a run, or of several beside each other."""
