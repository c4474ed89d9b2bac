"""A language model as the memory of one episode uses it, and what the memories of such methods have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from memalpha_jax.chat.model import ChatModel, Seat, ask
from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.methods.method import Context, Entry, Memory, Operation, Passage, WriteRecord
from memalpha_jax.methods.prompting import Prompt, Slots, fill, prompts_hash
from memalpha_jax.methods.retrieval import Retrieval
from memalpha_jax.methods.store import EntryStore
from memalpha_jax.rewards.metrics import strip_thinking
from memalpha_jax.tools.loose_json import clean_surrogates

MARKUP_TOKENS = 64
"""Left free for what a chat template puts around two messages, and for joints that tokenize differently."""
MAX_REPLY_CHARS = 1 << 18
"""Of a longer reply only the beginning is looked at: no model of `reply_tokens` writes so much."""


def reply_room(context_tokens: int, reply_tokens: int) -> int:
    """Tokens of a reply: as configured, but at most a quarter of the model's context."""
    return max(1, min(reply_tokens, context_tokens // 4))


@dataclass(frozen=True)
class ChatParts:
    """What every method over a chat model is made of.

    Attributes:
      reply_tokens: longest reply. count_tokens: of the run, for what is kept. retrieval: ranks what is kept.
    """

    model: ChatModel
    reply_tokens: int
    count_tokens: CountTokens
    retrieval: Retrieval


@dataclass
class Session:
    """One seat of a model, with an account of what was said since `start`."""

    parts: ChatParts
    seat: Seat
    replies: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    notes: set[str] = field(default_factory=set)

    def new_store(self) -> EntryStore:
        """An empty store for the memory of this session."""
        return EntryStore(self.parts.count_tokens, self.parts.retrieval.open())

    def start(self) -> None:
        self.replies, self.prompt_tokens, self.completion_tokens, self.notes = [], 0, 0, set()

    @property
    def reply_room(self) -> int:
        return reply_room(self.parts.model.context_tokens, self.parts.reply_tokens)

    @property
    def prompt_room(self) -> int:
        return self.parts.model.context_tokens - self.reply_room - MARKUP_TOKENS

    def ask(self, prompt: Prompt, *choices: Slots) -> str:
        """The reply, freed of thinking; see `ask_whole`."""
        return strip_thinking(self.ask_whole(prompt, *choices)).strip()

    def ask_whole(self, prompt: Prompt, *choices: Slots) -> str:
        """The reply to the prompt with the first of the choices that fits, else with what fits of the last.

        Raises:
          ChatError: the model failed for good. UserError: its context is too short for the prompt.
        """
        for slots in choices:
            filled = fill(prompt, slots, self.prompt_room, self.parts.model.count_tokens)
            if not filled.cut:
                break
        self.notes |= ({"chunk"} & filled.cut) | (set() if filled.told else {"instructions"})
        completion = self.seat.reply(ask(filled.user, self.reply_room, filled.system))
        text = clean_surrogates(completion.text)
        self.replies.append(text)
        self.prompt_tokens += completion.prompt_tokens
        self.completion_tokens += completion.completion_tokens
        return text[:MAX_REPLY_CHARS]

    def record(self, operations: Iterable[Operation]) -> WriteRecord:
        """What was said since `start`, and what it led to."""
        cut = [Operation("read", status=f"{what} cut to the model's context") for what in sorted(self.notes)]
        return WriteRecord(tuple(self.replies), (*cut, *operations), self.prompt_tokens, self.completion_tokens)


NOTHING = "(none)"
"""What stands in a prompt where there is nothing yet."""


def numbered(entries: Sequence[Entry | Passage]) -> list[str]:
    """A line `[id] text` for each, line ends inside of a text as blanks."""
    return [f"[{entry.id}] {' '.join(entry.text.split())}" for entry in entries] or [NOTHING]


class ChatMemory(ABC):
    """A memory that a chat model writes: subclasses say what happens to a chunk and to a question."""

    def __init__(self, session: Session):
        self.session, self.chunk = session, -1

    def write(self, chunk: str) -> WriteRecord:
        self.session.start()
        self.chunk += 1
        return self.session.record(self.read_chunk(chunk))

    def read(self, question: str) -> Context:
        self.session.start()
        passages = tuple(self.find(question))
        return Context(passages, calls=len(self.session.replies))

    @abstractmethod
    def read_chunk(self, chunk: str) -> list[Operation]:
        """Asks the model about chunk number `self.chunk`, and does what it says."""

    @abstractmethod
    def find(self, question: str) -> Sequence[Passage]:
        """What the reader may look at, the most relevant first."""

    @abstractmethod
    def entries(self) -> Sequence[Entry]: ...

    @property
    @abstractmethod
    def memory_tokens(self) -> int: ...

    def close(self) -> None:
        self.session.seat.leave()


@dataclass(frozen=True)
class ChatMethod:
    """A `Method` whose memories are made by `make` from a session each.

    Attributes:
      settings: all that its results depend on besides its parts. prompts: the files of its prompts.
    """

    name: str
    about: str
    settings: str
    prompts: tuple[str, ...]
    parts: ChatParts
    make: Callable[[Session], Memory]

    @property
    def identity(self) -> str:
        parts, wording = self.parts, prompts_hash(*self.prompts)
        settings = f"{self.settings} reply_tokens={parts.reply_tokens} prompts={wording} {parts.retrieval.identity}"
        return f"{self.name} {settings} {parts.model.identity}"

    def open(self, n: int) -> list[Memory]:
        return [self.make(Session(self.parts, seat)) for seat in self.parts.model.seats(n)]
