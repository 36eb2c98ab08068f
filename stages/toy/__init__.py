"""`padd toy`: an embedded teacher, student and problems, for trying padd in minutes."""
