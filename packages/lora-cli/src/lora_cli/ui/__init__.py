"""The Textual shell: shows the core's messages, sends it commands, decides nothing about audio or text."""
