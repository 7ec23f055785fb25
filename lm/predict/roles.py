"""What an example of a run has, by the names that its objective has for them, and how what a user
gives becomes one.

    classification, regression   text, perhaps text_pair (which what learned from pairs needs)
    token_classification         words: a list, or a string with spaces between
    question_answering           question, context
    multiple_choice              text, choices: a list
    sequence_to_sequence         text (the document to translate, to summarise); its target is not
                                 read. A list of strings is a document's sentences.
    instruction                  prompt, perhaps system; or messages, of which an answer at the end
                                 is not read
    causal_lm                    text, to be continued
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm.config import CausalLM, Config, Instruction, Roles, SequenceToSequence, TaskBase
from lm.data.examples_read import Example
from lm.errors import ConfigError, UserError, did_you_mean

# One after the other is tried; the first one is what messages are about.
Forms = tuple[Roles, ...]
# What may be given beside the roles: it names the example.
ID = "id"


def forms_of(config: Config) -> Forms:
    """The forms that an example may have.

    Raises:
      ConfigError: the run's model is none that answers.
    """
    objective = config.objective
    if isinstance(objective, Instruction):
        return (Roles(("prompt",), ("system",), ("response",)), Roles(("messages",), (), ()))
    if isinstance(objective, TaskBase):
        # What was learned from pairs has nothing to say of one text.
        sources = config.data.train.values()
        always = [role for role in objective.OPTIONAL
                  if any(role in getattr(source, "fields", {}) for source in sources)]  # fmt: skip
        optional = tuple(role for role in objective.OPTIONAL if role not in always)
        return (Roles((*objective.INPUTS, *always), optional, objective.TARGETS),)
    if isinstance(objective, CausalLM):
        return (Roles(("text",), (), ()),)
    # What is converted has no objective; an encoder-decoder reads a text and writes another one.
    joined = config.model.architecture == "encoder_decoder" and config.model.lm_head != "none"
    if isinstance(objective, SequenceToSequence) or (objective is None and joined):
        return (Roles(("text",), (), ("target",)),)
    what = (
        f"a converted {config.model.architecture} without a task"
        if objective is None
        else f"trained with objective {objective.name!r}"
    )
    raise ConfigError(
        f"this model is {what}, which has no answer to predict: lm predict is for tasks, "
        "sequence_to_sequence, instruction and causal_lm (train one from this model with "
        "train.warm_start; lm embed gives its hidden states)"
    )


def single(forms: Forms) -> str | None:
    """The role of an example that is nothing but a text; None where it has to have more."""
    inputs = forms[0].inputs
    return inputs[0] if len(inputs) == 1 else None


def words(names: Sequence[str]) -> str:
    """`question and context`, for messages."""
    return " and ".join(names)


def picked(example: Example, forms: Forms) -> Example:
    """The example with what is read alone, by the first form that it has all inputs of.

    Raises:
      UserError: it lacks one.
    """
    values = example.values
    for form in forms:
        if all(role in values for role in form.inputs):
            names = (*form.inputs, *form.optional)
            return Example({role: values[role] for role in names if role in values}, example.place)
    missing = next(role for role in forms[0].inputs if role not in values)
    raise UserError(
        f"{example.place} has no {missing}: an example needs "
        f"{', or '.join(words(form.inputs) for form in forms)}, and it has "
        f"{', '.join(map(repr, values)) or 'nothing'}"
    )


def from_value(value: Any, forms: Forms, place: str) -> Example:
    """An example from a text, from a tuple of the inputs (and what is optional) in their order, or
    from a mapping of roles.

    Raises:
      UserError: too little, too much, or a role that there is not.
    """
    if isinstance(value, Mapping):
        known = {ID, *(role for form in forms for part in form for role in part)}
        for role in value:
            if role not in known:
                raise UserError(
                    f"{place}: nothing reads {role!r}{did_you_mean(str(role), known - {ID})}"
                )
        return Example(dict(value), place)
    names = (*forms[0].inputs, *forms[0].optional)
    least = len(forms[0].inputs)
    given = value if isinstance(value, tuple) else (value,)
    if not least <= len(given) <= len(names):
        needed = words(forms[0].inputs)
        raise UserError(
            f"{place} has {len(given)} values, and it should have {needed}: give "
            + (f"a text, or a mapping with {needed}" if least == 1
               else f"a tuple of them, or a mapping with {needed}")
        )  # fmt: skip
    return Example(dict(zip(names, given)), place)


def from_arguments(texts: Sequence[str], forms: Forms) -> list[Example]:
    """Examples from a command line: each text is one, or all of them together are one where an
    example has several inputs (of a choice the texts from the second on are the choices).

    Raises:
      ConfigError: not as many texts as an example has.
    """
    role = single(forms)
    if role is not None:
        return [Example({role: text}, f"argument {n}") for n, text in enumerate(texts, 1)]
    inputs = forms[0].inputs
    values: list[Any] = list(texts)
    if inputs[-1] == "choices" and len(texts) > len(inputs):
        values = [*texts[: len(inputs) - 1], list(texts[len(inputs) - 1 :])]
    if len(values) != len(inputs):
        raise ConfigError(
            f"{len(texts)} texts on the command line, and an example is {words(inputs)}: give "
            "them in this order, or many examples with --input="
        )
    return [Example(dict(zip(inputs, values)), "the example")]
