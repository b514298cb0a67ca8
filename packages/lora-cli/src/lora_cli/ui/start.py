"""Puts core and app together for a real terminal."""

import sys

from lora.errors import SetupError
from lora_cli.core import VoiceCore
from lora_cli.engine import ProcessEngine
from lora_cli.options import VoiceOptions, read_keys
from lora_cli.ports import SoundDevicePort
from lora_cli.transcripts import Emit
from lora_cli.ui.app import MoonshineApp
from lora_cli.vad import SileroVad


def build_app(options: VoiceOptions) -> MoonshineApp:
    """Build the app with the sound card, the model process and the files that `options` name."""
    keys = read_keys(options.keys)
    store = options.open_store()

    def make_core(emit: Emit) -> VoiceCore:
        return VoiceCore(
            port=SoundDevicePort(),
            engine=ProcessEngine(options.model_choice, options.folder / "model.log"),
            store=store,
            emit=emit,
            settings=options.core_settings,
            detector=SileroVad,
        )

    driver = None
    if sys.platform != "win32":
        from lora_cli.ui.kitty import install_release_parser

        driver = install_release_parser()
    return MoonshineApp(options, keys, make_core, driver_class=driver)


def run_terminal_app(options: VoiceOptions) -> int:
    """Run the app until the person leaves.

    Raises:
        SetupError: the app ended on an error; Textual has shown it.
    """
    app = build_app(options)
    app.run_until_stopped()
    if app.return_code:
        raise SetupError("the app ended on an error, shown above. Recordings are kept.")
    return 0
