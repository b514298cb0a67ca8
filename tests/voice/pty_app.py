"""The app with a tone for a microphone, in whatever terminal runs this; writes what happens to a log."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from lora_cli import ui
from lora_cli.core import VoiceCore
from lora_cli.events import Message, PhaseChanged, TakeFinished
from lora_cli.options import DEFAULT_KEYS, VoiceOptions
from lora_cli.ports import FilePort
from lora_cli.store import Store
from lora_cli.transcripts import Emit
from lora_cli.ui.app import MoonshineApp
from lora_cli.ui.kitty import install_release_parser
from lora_cli.ui.widgets import RecordButton
from voice_fakes import CountingVoices, ThreadEngine, tone_pcm

from lora.scripts.cli import answer


def main(log: Path) -> None:
    folder = log.parent / "data"
    port = FilePort()
    port.play(tone_pcm(30.0))

    def note(line: str) -> None:
        with log.open("a") as file:
            file.write(f"{line}\n")

    def make_core(emit: Emit) -> VoiceCore:
        def told(message: Message) -> None:
            if isinstance(message, PhaseChanged):
                note(f"{message.phase} {message.gesture}")
            if isinstance(message, TakeFinished):
                note(f"finished {message.reason}")
            emit(message)

        return VoiceCore(port=port, engine=ThreadEngine(CountingVoices()), store=Store(folder, speaker="a"), emit=told)

    class LoggedApp(MoonshineApp):
        CSS_PATH = Path(ui.__file__).with_name("moonshine.tcss")

        def on_ready(self) -> None:  # Textual calls the one of MoonshineApp too
            region = self.main.query_one(RecordButton).region
            note(f"button {region.x + 2};{region.y + 2}")

        def on_unmount(self) -> None:
            note("unmounted")

    app = LoggedApp(VoiceOptions(data_dir=folder), dict(DEFAULT_KEYS), make_core, driver_class=install_release_parser())
    try:
        app.run_until_stopped()
    finally:
        note(f"left {app.return_code}")


if __name__ == "__main__":

    def work() -> int:
        main(Path(sys.argv[1]))
        return 0

    sys.exit(answer("app", work))
