"""The process that measures boots, as pid 1 of a bed.

    python -m popnet.bench.bootworker PLAN

PLAN is a BootPlan in JSON. It prints a line of JSON for each thing it says, and one for the document.
"""

import json
import sys

from popnet.bench import bed, bootrounds
from popnet.bench.networker import say
from popnet.core.errors import Refused


def main(arguments: list[str]) -> int:
    plan = bootrounds.BootPlan.from_json(arguments[0])

    def measure() -> None:
        print(json.dumps({"document": bootrounds.measure(plan, say)}))

    try:
        return bed.enter(measure)
    except Refused as error:
        print(json.dumps({"error": str(error), "hint": error.hint}))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
