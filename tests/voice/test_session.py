"""The session's rules, without audio, threads or a clock."""

from hypothesis import given, settings
from hypothesis import strategies as st
from lora_cli.session import (
    Cancel,
    CloseMic,
    DiscardTake,
    Event,
    FinishTake,
    FocusLost,
    MicLost,
    MicSwitch,
    OpenMic,
    Press,
    Refused,
    Release,
    Rules,
    SpeechEnded,
    StartTake,
    State,
    TakeDone,
    Tick,
    step,
)

RULES = Rules(tap_s=0.4, repeat_s=0.15, max_s=60.0)
LISTENING = State(mic_open=True)


def run(state: State, *events: Event, rules: Rules = RULES) -> tuple[State, list[object]]:
    actions: list[object] = []
    for event in events:
        state, done = step(state, event, rules)
        actions += done
    return state, actions


def test_a_tap_starts_a_take_and_the_next_tap_ends_it() -> None:
    state, actions = run(LISTENING, Press(1.0), Press(3.0))
    assert actions == [StartTake(), FinishTake("key")]
    assert (state.phase, state.pending) == ("transcribing", 1)


def test_from_idle_the_microphone_opens_for_the_take_and_closes_after_it() -> None:
    state, actions = run(State(), Press(1.0), Press(3.0), TakeDone(4.0))
    assert actions == [OpenMic(), StartTake(), FinishTake("key"), CloseMic()]
    assert state.phase == "idle"


def test_a_key_held_longer_than_a_tap_ends_the_take_at_its_release() -> None:
    _, actions = run(LISTENING, Press(1.0, releases=True), Release(1.5))
    assert actions == [StartTake(), FinishTake("release")]


def test_a_short_hold_is_a_tap_and_the_take_runs_on() -> None:
    state, actions = run(LISTENING, Press(1.0, releases=True), Release(1.3))
    assert actions == [StartTake()]
    assert state.gesture == "tap"


def test_repeats_of_a_held_key_change_nothing_where_releases_are_reported() -> None:
    held = [Press(1.0 + 0.03 * number, releases=True) for number in range(40)]
    assert run(LISTENING, *held)[1] == [StartTake()]


def test_repeats_of_a_held_key_do_not_flicker_where_releases_are_not_reported() -> None:
    held = [Press(1.0), *(Press(1.5 + 0.03 * number) for number in range(40))]
    assert run(LISTENING, *held)[1] == [StartTake(), FinishTake("key")]


def test_a_stray_release_changes_nothing() -> None:
    assert run(LISTENING, Release(1.0)) == (LISTENING, [])
    assert run(LISTENING, Press(1.0), Release(9.0))[1] == [StartTake()]


def test_escape_throws_the_take_away_and_nothing_is_pending() -> None:
    state, actions = run(LISTENING, Press(1.0), Cancel(2.0))
    assert actions == [StartTake(), DiscardTake("escape")]
    assert state.phase == "listening"


def test_silence_ends_a_tapped_take_but_never_a_held_one() -> None:
    assert run(LISTENING, Press(1.0), SpeechEnded(3.0))[1] == [StartTake(), FinishTake("silence")]
    assert run(LISTENING, Press(1.0, releases=True), SpeechEnded(3.0))[1] == [StartTake()]
    manual = Rules(stop_on_silence=False)
    assert run(LISTENING, Press(1.0), SpeechEnded(3.0), rules=manual)[1] == [StartTake()]


def test_the_cap_ends_a_take_whose_key_stays_down_and_repeats_do_not_start_another() -> None:
    press = Press(1.0, releases=True)
    state, actions = run(LISTENING, press, Tick(60.9), Tick(61.0), Press(61.1, releases=True))
    assert actions == [StartTake(), FinishTake("cap")]
    assert run(state, Release(62.0), Press(63.0, releases=True))[1] == [StartTake()]


def test_losing_the_focus_ends_a_hold_whose_release_would_never_come() -> None:
    assert run(LISTENING, Press(1.0, releases=True), FocusLost(5.0))[1] == [StartTake(), FinishTake("focus")]
    assert run(LISTENING, Press(1.0), FocusLost(5.0))[1] == [StartTake()]


def test_a_key_that_was_down_when_the_focus_was_lost_works_again_afterwards() -> None:
    """Its release is reported to another window."""
    pressed = Press(1.0, releases=True)
    state, _ = run(LISTENING, pressed, FocusLost(5.0))
    assert not state.key_down
    assert run(state, Press(9.0, releases=True))[1] == [StartTake()]
    tapping, _ = run(LISTENING, Press(1.0), Press(2.0, releases=True), FocusLost(3.0))  # down, and nothing records
    assert run(tapping, Press(9.0, releases=True))[1] == [StartTake()]


def test_an_unplugged_microphone_ends_the_take_and_keeps_it() -> None:
    state, actions = run(LISTENING, Press(1.0), MicLost(2.0))
    assert actions == [StartTake(), FinishTake("unplugged"), CloseMic()]
    assert (state.mic_open, state.pending) == (False, 1)


def test_a_refused_microphone_leaves_nothing_pending() -> None:
    state, _ = run(State(), Press(1.0), Refused(1.1))
    assert (state.phase, state.pending) == ("idle", 0)


def test_a_new_take_can_start_while_an_older_one_is_transcribed() -> None:
    state, _ = run(LISTENING, Press(1.0), Press(2.0), Press(3.0))
    assert (state.phase, state.pending) == ("recording", 1)


EVENTS = st.lists(
    st.tuples(
        st.floats(0, 5),
        st.sampled_from(["press", "hold", "release", "cancel", "tick", "silence", "focus", "lost", "switch", "done"]),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(EVENTS)
def test_takes_begin_and_end_in_turn_whatever_happens(script: list[tuple[float, str]]) -> None:
    state, now, running, ended = State(), 0.0, False, 0
    kinds = {
        "press": Press,
        "release": Release,
        "cancel": Cancel,
        "tick": Tick,
        "silence": SpeechEnded,
        "focus": FocusLost,
        "lost": MicLost,
        "switch": MicSwitch,
        "done": TakeDone,
    }
    for pause, name in script:
        now += pause
        event = Press(now, releases=True) if name == "hold" else kinds[name](now)
        state, actions = step(state, event, RULES)
        for action in actions:
            if isinstance(action, StartTake):
                assert not running
                running = True
            if isinstance(action, FinishTake | DiscardTake):
                assert running
                running = False
                ended += isinstance(action, FinishTake)
        assert running == state.recording
        assert 0 <= state.pending <= ended


@settings(deadline=None)
@given(EVENTS)
def test_no_take_outlives_the_cap(script: list[tuple[float, str]]) -> None:
    state, now = LISTENING, 0.0
    for pause, name in script:
        now += pause
        if name in ("press", "hold", "release"):
            event = Release(now) if name == "release" else Press(now, releases=name == "hold")
            state, _ = step(state, event, RULES)
        state, _ = step(state, Tick(now), RULES)
        assert not state.recording or now - state.started < RULES.max_s
