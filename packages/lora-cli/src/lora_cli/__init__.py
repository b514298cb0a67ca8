"""The voice app: hear the base model and the tuned one on one recording, correct them, and teach.

The core (every module here) knows no Textual and runs without a terminal. `ui/` is the Textual shell: it
sends commands and receives the messages of `events`. Neither imports torch; the model lives in a process of its own.
"""
