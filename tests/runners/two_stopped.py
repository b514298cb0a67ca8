"""What each of two processes runs in `test_resume.py`: an experiment in which one of them gets a signal."""

import os
import signal
import sys
from typing import Any

from lora import processes
from lora.scripts import experiment
from lora.training.loop import Trainer


def main(stop_at: int, words: list[str]) -> int:
    """Run the experiment; the second process gets SIGTERM in step `stop_at`, 0 is none."""
    step = Trainer.step

    def stopped(self: Trainer, number: int, *parts: Any) -> Any:
        if number == stop_at and not processes.is_main():
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, *parts)

    Trainer.step = stopped  # type: ignore[method-assign]
    code = experiment.main(words)
    print(f"ended with {code}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
