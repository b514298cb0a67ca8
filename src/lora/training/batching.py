"""Training batches without end: every epoch anew, their audio read and augmented ahead of the steps."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from lora import processes
from lora.data.batches import epoch_batches
from lora.data.waves import LazyWave, work_ahead
from lora.model.feature_cache import EncoderCache
from lora.training.examples import Example
from lora.units import Seconds, Wave

Augment = Callable[[Wave, int, str], Wave]
"""(wave, epoch, utterance id) -> changed wave, the same for the same arguments."""

Views = dict[tuple[int, int], LazyWave]
"""Augmented waves that come again, by index and view."""


@dataclass(frozen=True)
class BatchReader:
    """Reads the audio of training batches.

    Attributes:
        augment: changes a wave; the epoch that it is told counts modulo `augment_views`, unless that is 0.
        encoder_cache: what it holds states of need not be read.
    """

    augment: Augment | None
    augment_views: int
    encoder_cache: EncoderCache | None

    def endless(
        self, examples: Sequence[Example], lengths: Sequence[int], batch_seconds: Seconds, seed: int, *, skip: int = 0
    ) -> Iterator[list[Example]]:
        """Yield batches epoch after epoch, read by threads ahead of the steps; nothing where there are no examples.

        Args:
            lengths: of the examples, in samples; they make the batches, so they must stay the same in a run.
            skip: batches that were taken before; they are counted and not read.
        """
        views: Views = {}

        def batches() -> Iterator[list[Callable[[], Example]]]:
            epoch, taken = 0, 0
            while examples:
                for batch in epoch_batches(lengths, batch_seconds=batch_seconds, seed=seed, epoch=epoch):
                    taken += 1
                    if taken <= skip:
                        continue
                    own = set(processes.share_of(batch))  # of the other processes' utterances only the tokens count
                    yield [
                        partial(self._fetched, self._in_epoch(examples, i, epoch, views))
                        if i in own
                        else partial(_unread, examples[i])
                        for i in batch
                    ]
                epoch += 1

        with closing(work_ahead(batches())) as fetched:
            yield from fetched

    def _in_epoch(self, examples: Sequence[Example], index: int, epoch: int, views: Views) -> Example:
        """Return the example as `epoch` hears it; views that come again are kept, for their content hash."""
        example, augment = examples[index], self.augment
        if augment is None:
            return example
        view = epoch % self.augment_views if self.augment_views else epoch
        lazy = views.get((index, view))
        if lazy is None:
            lazy = LazyWave(lambda: augment(example.wave, view, example.id), example.num_samples)
            if self.augment_views:
                views[index, view] = lazy
        return replace(example, audio=lazy)

    def _fetched(self, example: Example) -> Example:
        """Return the example with its wave in memory, or as it is where its encoder states are stored."""
        audio = example.audio
        if not isinstance(audio, LazyWave):
            return example
        cache = self.encoder_cache
        if cache is not None and audio.known_sha256 is not None and cache.has(audio.known_sha256):
            return example
        return replace(example, audio=audio.held())


def _unread(example: Example) -> Example:
    return example
