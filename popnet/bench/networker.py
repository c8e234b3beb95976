"""The process that measures networks, as pid 1 of a bed.

    python -m popnet.bench.networker PLAN

PLAN is a NetPlan in JSON. It prints a line of JSON for each thing it says, and one for the document.
"""

import json
import sys

from popnet.bench import bed, netrounds, netscale
from popnet.core.errors import Refused


def say(text: str) -> None:
    print(json.dumps({"say": text}), flush=True)


def main(arguments: list[str]) -> int:
    plan = netrounds.NetPlan.from_json(arguments[0])

    def measure() -> None:
        document = netscale.measure(plan, say) if plan.kernels else netrounds.measure(plan, say)
        print(json.dumps({"document": document}))

    try:
        return bed.enter(measure)
    except Refused as error:
        print(json.dumps({"error": str(error), "hint": error.hint}))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
