"""Known vulnerabilities of the locked packages: ``python .ci/audit.py UV LOCK``; exit 1 if there are, or none is known.

Runs pip-audit, of which a package that no database knows is no failure: here it is told, and if it is all of them,
then nothing was audited.
"""

import json
import subprocess
import sys

PIP_AUDIT = "pip-audit==2.10.1"


def main(uv: str, lock: str) -> int:
    """Print what was found."""
    command = [
        uv,
        "tool",
        "run",
        PIP_AUDIT,
        "--disable-pip",
        "--require-hashes",
        "--format",
        "json",
        "-r",
        lock,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        print(f"not audited, pip-audit could not run: {done.stderr.strip()[-500:]}")
        return 1
    skipped = [each["name"] for each in found if "skip_reason" in each]
    vulnerable = [each for each in found if each.get("vulns")]
    for each in vulnerable:
        for fault in each["vulns"]:
            print(
                f"{each['name']} {each['version']}: {fault['id']}, mended in {fault['fix_versions'] or 'no release'}"
            )
    print(
        f"audited {len(found) - len(skipped)} of {len(found)} packages: {len(vulnerable)} with known vulnerabilities"
    )
    if len(skipped) == len(found):
        print("no database of vulnerabilities could be reached, so nothing is known of these packages")
        return 1
    if skipped:
        print(f"not in the database: {', '.join(skipped)}")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
