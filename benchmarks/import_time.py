"""What the package's credentials and tasks cost over `import prefect, prefect_aws`: at most 15 %.

Both are timed in one process, one after the other, so that a slow moment of the machine slows both; the median of
several processes is told. A name is loaded when it is first used; the flows are told apart.
"""

import statistics
import subprocess
import sys

from size import is_small

ROUNDS = 9
CODE = """
from time import perf_counter as now
begun = now()
import prefect, prefect_aws
prefect.flow, prefect.task
base = now()
from prefect_xai_video import XaiCredentials, start_video
package = now()
from prefect_xai_video import generate_video
flows = now()
import sys
assert "av" not in sys.modules and "prefect_xai_video.emulator" not in sys.modules
print(base - begun, package - base, flows - package)
"""


def main() -> None:
    count = 1 if is_small(__doc__) else ROUNDS
    rounds = [
        [float(part) for part in subprocess.check_output([sys.executable, "-c", CODE], text=True).split()]
        for _ in range(count)
    ]
    base, package, flows = (statistics.median(times) for times in zip(*rounds, strict=True))
    share, whole = (statistics.median(sum(times[1:end]) / times[0] for times in rounds) for end in (2, 3))
    print(f"import prefect, prefect_aws   {base:.2f} s")
    print(f"the credentials and tasks     {package:.2f} s more, {share:.1%}  (at most 15 %)")
    print(f"and its flows                 {flows:.2f} s more, {whole:.1%} in all")


if __name__ == "__main__":
    main()
