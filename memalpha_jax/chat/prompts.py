"""From messages to a prompt's tokens: the markup is the tokenizer's, what people and models wrote stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from memalpha_jax.chat.model import Message
from memalpha_jax.errors import UserError
from memalpha_jax.policy.hf_tokenizer import HuggingFaceTokenizer
from memalpha_jax.policy.tokenizer import Tokenizer

_PLACE = "\ue000{}\ue001"  # private use: no template has it, and none would trim or split it
_PLACES = re.compile("\ue000(\\d+)\ue001")


class ChatPrompts:
    """Prompts of one tokenizer.

    A Hugging Face tokenizer's own chat template says what stands around the messages, with thinking off where the
    template knows how; without one it is `<|im_start|>ROLE`, a line end, the message, `<|im_end|>`, a line end.
    The template is run on place holders, so that no message can become markup, be trimmed or change the others.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._markup: dict[tuple[str, ...], list[list[int]]] = {}

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids, up to where the reply begins.

        Raises:
          UserError: the chat template refuses such a conversation, or leaves a message out.
        """
        roles = tuple(message.role for message in messages)
        if roles not in self._markup:
            self._markup[roles] = self._around(roles)
        first, *others = self._markup[roles]
        ids = list(first)
        for message, markup in zip(messages, others, strict=True):
            ids += self._tokenizer.encode(message.content) + markup
        return ids

    def _around(self, roles: tuple[str, ...]) -> list[list[int]]:
        """The tokens before the first message and after each."""
        pieces = _PLACES.split(self._template(roles))
        if pieces[1::2] != [str(i) for i in range(len(roles))]:
            raise UserError(
                f"the chat template of the model's tokenizer does not show each of the messages {', '.join(roles)} "
                "once, in order; use a model with a common chat template"
            )
        return [self._tokenizer.encode_trusted(text) for text in pieces[::2]]

    def _template(self, roles: tuple[str, ...]) -> str:
        wrapped = self._tokenizer.wrapped if isinstance(self._tokenizer, HuggingFaceTokenizer) else None
        if wrapped is None or not wrapped.chat_template:
            turns = (f"<|im_start|>{role}\n{_PLACE.format(i)}<|im_end|>\n" for i, role in enumerate(roles))
            return "".join(turns) + "<|im_start|>assistant\n"
        messages = [{"role": role, "content": _PLACE.format(i)} for i, role in enumerate(roles)]
        try:
            return wrapped.apply_chat_template(
                messages, add_generation_prompt=True, enable_thinking=False, tokenize=False
            )
        except Exception as error:  # a template is a program, and raises what it likes
            raise UserError(
                f"the chat template of the model's tokenizer refuses the messages {', '.join(roles)}: {error}"
            ) from error
