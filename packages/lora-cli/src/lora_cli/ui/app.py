"""The Textual app: carries messages between the core and the screens, and keys to the core."""

import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from textual import events as textual_events
from textual.app import App
from textual.filter import LineFilter
from textual.message import Message
from textual.screen import Screen

from lora import signals
from lora.errors import LoraError
from lora_cli import events
from lora_cli.adapting import Adaptation, AdaptSettings
from lora_cli.core import VoiceCore
from lora_cli.options import VoiceOptions, adapter_names
from lora_cli.store import Origin, TaughtCounts
from lora_cli.teaching import PromptList, digit_prompts, read_prompts
from lora_cli.transcripts import BASE, Emit
from lora_cli.ui.dialogs import CorrectDialog, DeviceDialog, HelpDialog, VerdictDialog
from lora_cli.ui.kitty import KeyRelease, ReleasesReported
from lora_cli.ui.main_screen import DESCRIPTIONS, MainScreen
from lora_cli.ui.plain import PlainLines
from lora_cli.ui.playback import play_wav
from lora_cli.ui.teach_screen import TeachScreen
from lora_cli.ui.widgets import AdaptLine

SIGNAL_INTERVAL_S = 0.2
LEAVING_S = 3.0

MakeCore = Callable[[Emit], VoiceCore]


class FromCore(Message):
    """A message of the core, carried into Textual's loop."""

    def __init__(self, message: events.Message) -> None:
        super().__init__()
        self.message = message


class MoonshineApp(App[None]):
    """The app.

    Args:
        make_core: builds the core, given where its messages go.
    """

    CSS_PATH = "moonshine.tcss"
    TITLE = "Moonshine LoRA"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar = []

    def __init__(
        self, options: VoiceOptions, keys: dict[str, tuple[str, ...]], make_core: MakeCore, **kwargs: object
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.options = options
        self.keys = keys
        self.reports_releases = False
        self.core: VoiceCore = make_core(self.tell)
        self.main = MainScreen()
        self.adaptation: Adaptation | None = None
        self._asked: str | None = None
        self._again = False
        self._outcome: events.AdaptFinished | None = None
        self._stop = signals.Stop()
        self.set_keymap({action: ",".join(bound) for action, bound in keys.items()})

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Return what every line passes through before it is drawn."""
        return [*super().get_line_filters(), PlainLines()]

    def tell(self, message: events.Message) -> None:
        """Pass a message of the core on; called on the core's thread."""
        if self.is_running:
            self.post_message(FromCore(message))

    def get_default_screen(self) -> Screen[None]:
        """Return the main screen."""
        return self.main

    def on_ready(self) -> None:
        """Start the core once the first frame is out: loading must not delay it."""
        self.core.start()
        self.set_interval(SIGNAL_INTERVAL_S, self._leave_on_signal)

    def run_until_stopped(self) -> None:
        """Run until the person leaves, or until a signal asks for it; the recording is kept then too.

        Raises:
            Stopped: a signal did.
        """
        with signals.deferred() as self._stop:
            self.run()

    def _leave_on_signal(self) -> None:
        number = self._stop.requested
        if number is None:
            return
        self._end()
        # Textual waits without end for a terminal that is gone, and SIGHUP says that it is.
        giving_up = threading.Timer(LEAVING_S, os._exit, [128 + number])
        giving_up.daemon = True
        giving_up.start()
        self.exit()

    def on_unmount(self) -> None:
        """End everything that was started."""
        self._end()

    def _end(self) -> None:
        if self.adaptation is not None:
            self.adaptation.cancel()
        self.core.stop()
        self.core.store.close()

    def on_from_core(self, carried: FromCore) -> None:
        """Show a message on every screen that wants it."""
        message = carried.message
        match message:
            case events.AdaptProgress():
                self.main.query_one(AdaptLine).show(message)
                return
            case events.AdaptFinished():
                self._on_adapted(message)
                return
            case events.Broken():
                raise message.error
            case _:
                pass
        for screen in self.screen_stack:
            if isinstance(screen, MainScreen | TeachScreen):
                screen.show(message)

    # Talking.

    def talk(self) -> None:
        """The talk key went down."""
        self.core.press(releases=self.reports_releases)

    def talk_by_mouse(self) -> None:
        """The button went down; its release will follow."""
        self.core.press(releases=True)

    def release_talk(self) -> None:
        """The talk key or the button came up."""
        self.core.release()

    def discard(self) -> None:
        """Throw the running take away."""
        self.core.cancel()

    def on_key_release(self, event: KeyRelease) -> None:
        """Stop a take that is held by key."""
        if event.key in self.keys["talk"]:
            self.core.release()

    def on_releases_reported(self, event: ReleasesReported) -> None:
        """Offer hold-to-talk from now on."""
        self.reports_releases = True
        self.main.draw_mode()

    def on_app_blur(self, event: textual_events.AppBlur) -> None:
        """A release that happens elsewhere is never reported."""
        self.core.lose_focus()

    # Actions of the main screen.

    def action_do(self, action: str) -> None:
        """Carry out an action of the main screen."""
        asked, self._asked = self._asked, None
        self._again = asked == action
        getattr(self, f"do_{action}")()

    def _confirmed(self, action: str, question: str) -> bool:
        """Tell whether the key was pressed twice in a row; ask for the second press otherwise."""
        if self._again:
            return True
        self._asked = action
        self.main.notice(question, "warning")
        return False

    def do_talk(self) -> None:
        """Start or stop."""
        self.talk()

    def do_discard(self) -> None:
        """Throw the running take away."""
        self.discard()

    def do_microphone(self) -> None:
        """Open or close the microphone."""
        self.core.switch_mic()

    def do_devices(self) -> None:
        """Choose a microphone."""
        self.push_screen(DeviceDialog(), lambda name: self.core.choose_device(name) if name is not None else None)

    def do_adapter(self) -> None:
        """Hear the next adapter; after the last one the base model alone."""
        voices = [voice for voice in self.core.transcripts.voices if voice != BASE]
        if not voices:
            self.main.notice("No adapter is loaded: start with --adapter-dir, or adapt to your voice.", "warning")
            return
        cycle = [*voices, None]
        active = self.core.transcripts.active
        self.core.choose_voice(cycle[(cycle.index(active) + 1) % len(cycle)])

    def do_correct(self) -> None:
        """Correct the current take."""
        entry = self.main.entry()
        if entry is None:
            self.main.notice("There is no take to correct: speak first.", "warning")
            return
        heard = entry.corrected or entry.texts.get(self.core.transcripts.active or BASE, "")
        take_id = entry.id

        def save(text: str | None) -> None:
            if text is not None:
                self.core.teach(take_id, text, "corrected")

        self.push_screen(CorrectDialog(heard), save)

    def do_teach(self) -> None:
        """Read prompts aloud."""
        try:
            prompts = self._prompts()
        except LoraError as error:
            self.main.notice(str(error), "error")
            return
        self.push_screen(TeachScreen(self, prompts, self.keys))

    def _prompts(self) -> PromptList:
        seed, count = random.randrange(2**31), self.options.prompt_count
        if self.options.prompts is not None:
            return read_prompts(self.options.prompts, count, seed=seed)
        return digit_prompts(count, seed=seed)

    def do_adapt(self) -> None:
        """Adapt to what was taught; while that runs, offer to stop it."""
        running = self.adaptation
        if running is not None and running.running:
            if self._confirmed("adapt", "Adapting already; talk on meanwhile, or press the key again to stop it."):
                self.run_worker(running.cancel, thread=True)
            return
        settings = AdaptSettings(self.options.model_id, self.options.guardrail_manifest, self.options.adapt_config)
        adaptation = Adaptation(self.core.store, settings, self.tell)
        try:
            adaptation.start()
        except LoraError as error:
            self.main.notice(str(error), "warning")
            return
        self.adaptation = adaptation
        self.main.notice("Adapting to your voice. You can go on talking.")

    def _on_adapted(self, outcome: events.AdaptFinished) -> None:
        self.main.query_one(AdaptLine).show(None)
        self.main.notice(f"Adapting ended: {outcome.decision}.")
        if outcome.decision != "cancelled":
            self._outcome = outcome
            self.show_verdict()

    def show_verdict(self) -> None:
        """Show a verdict that waits, once nobody speaks, writes or reads in another screen."""
        outcome = self._outcome
        if outcome is None or self.screen is not self.main or self.core.state.recording:
            return
        self._outcome = None

        def load(folder: str | None) -> None:
            if folder is not None:
                taken = set(self.core.transcripts.voices)
                name = adapter_names([Path(folder)])[0]
                self.core.load_adapter(Path(folder), name if name not in taken else f"{name}-again")

        self.push_screen(VerdictDialog(outcome), load)

    def do_blind(self) -> None:
        """Turn blind comparison on or off."""
        self.main.blind = not self.main.blind
        self.main.draw_all()

    def do_left(self) -> None:
        """Vote for the left text."""
        self.main.vote(0)

    def do_right(self) -> None:
        """Vote for the right text."""
        self.main.vote(1)

    def do_same(self) -> None:
        """Vote for neither."""
        self.main.vote(None)

    def do_again(self) -> None:
        """Transcribe the current take again, by the voices that are heard now."""
        if self.main.take_id is not None:
            self.core.run_again(self.main.take_id)

    def do_play(self) -> None:
        """Play the current take."""
        entry = self.main.entry()
        if entry is not None:
            path = self.core.store.wav_path(entry)
            self.run_worker(lambda: play_wav(path, self.tell), thread=True, exclusive=True, group="play")

    def do_copy(self) -> None:
        """Copy the current text to the clipboard, through the terminal."""
        entry = self.main.entry()
        if entry is not None:
            text = entry.corrected or entry.texts.get(self.core.transcripts.active or BASE, "")
            self.copy_to_clipboard(text)
            self.main.notice("Copied.")

    def do_delete(self) -> None:
        """Delete the current take, at the second press."""
        entry = self.main.entry()
        if entry is None:
            return
        if not self._confirmed("delete", "Press the key again to delete this take and its recording."):
            return
        self.main.take_id = None
        self.core.delete(entry.id)
        self.main.notice("Deleted.")

    def do_help(self) -> None:
        """Show the keys."""
        self.push_screen(HelpDialog(self.keys, DESCRIPTIONS))

    def do_quit(self) -> None:
        """Leave; a running take is kept."""
        adapting = self.adaptation is not None and self.adaptation.running
        if not adapting or self._confirmed("quit", "Leaving stops the adaptation. Press the key again to leave."):
            self.exit()

    # What the teaching screen asks for.

    def teach(self, take_id: str, text: str, origin: Origin) -> None:
        """Save a take with its text."""
        self.core.teach(take_id, text, origin)

    def delete_take(self, take_id: str) -> None:
        """Throw a recorded take away."""
        self.core.delete(take_id)

    def taught(self) -> TaughtCounts:
        """Return how much was taught."""
        return self.core.store.taught_counts()
