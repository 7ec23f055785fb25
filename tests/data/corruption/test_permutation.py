from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lm.data.corruption.permutation import choose_spans, permute
from lm.data.corruption.vocabulary import Vocabulary
from lm.errors import ConfigError, UserError

SIZE = 1000
PAD, SEP, CLS = 0, 1, 2


def vocabulary(**changes: Any) -> Vocabulary:
    """Every third id goes on with a word."""
    special = np.zeros(SIZE, bool)
    special[[PAD, SEP, CLS]] = True
    starts = np.arange(SIZE) % 3 != 0
    starts[PAD] = True
    values: dict[str, Any] = dict(
        size=SIZE,
        pad_id=PAD,
        bos_id=CLS,
        eos_id=SEP,
        unk_id=None,
        mask_id=None,
        special=special,
        starts_word=starts,
    )
    return Vocabulary(**{**values, **changes})


V = vocabulary()
EACH_A_WORD = vocabulary(starts_word=np.ones(SIZE, bool))


def text(n: int, seed: int = 0, special: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, SIZE, n)
    tokens[rng.random(n) < special] = SEP
    return tokens.astype(np.int32)


def allowed_of(row: dict[str, np.ndarray]) -> np.ndarray:
    """The line of the module's docstring, on a batch of one."""
    rank, predicted = jnp.asarray(row["rank"])[None], jnp.asarray(row["predicted"])[None]
    allowed = rank[:, None, :] < (rank + ~predicted)[:, :, None]
    return np.asarray(allowed[0])


def released(
    tokens: np.ndarray, masked: np.ndarray, index: np.ndarray, reuse_length: int
) -> np.ndarray:
    """The released code's perm_mask, entry by entry: True where i may not see j.

    Of a part: `index` is each token's place in the order; tokens that are neither masked nor
    functional have -1 instead. Those that are masked and not functional are the targets; they do
    not see themselves. The first part sees nothing of the second, which sees all of the first.
    """
    n = len(tokens)
    functional = np.isin(tokens, [SEP, CLS])
    hidden = np.zeros((n, n), bool)
    for i in range(n):
        for j in range(n):
            if (i < reuse_length) != (j < reuse_length):
                hidden[i, j] = i < reuse_length
                continue
            masked_or_functional_j = masked[j] or functional[j]
            rev_i = index[i] if masked[i] or functional[i] else -1
            rev_j = index[j] if masked_or_functional_j else -1
            target_i = masked[i] and not functional[i]
            self_rev_i = rev_i if target_i else rev_i + 1
            hidden[i, j] = self_rev_i <= rev_j and masked_or_functional_j
    return hidden


@pytest.mark.parametrize("reuse_length", [0, 16, 30])
@pytest.mark.parametrize("perm_size", [None, 8, 1])
@pytest.mark.parametrize("special", [0.0, 0.2])
def test_allowed_is_the_released_codes_perm_mask(
    reuse_length: int, perm_size: int | None, special: float
) -> None:
    for seed in range(5):
        tokens = text(48, seed, special)
        row = permute(
            tokens,
            V,
            np.random.default_rng(seed),
            num_predict=12,
            reuse_length=reuse_length,
            perm_size=perm_size,
        )
        # Ranks to places in the order of each part: 0 is a part's first rank.
        index = row["rank"].astype(int) - 1
        if reuse_length:
            index[reuse_length:] -= reuse_length + 1
        placed = index[index >= 0]
        assert placed.max() < 48
        parts = [slice(0, reuse_length), slice(reuse_length, 48)] if reuse_length else [slice(48)]
        for part in parts:
            own = index[part]
            hidden = (own >= 0).nonzero()[0]
            assert len(set(own[hidden])) == len(hidden)
            size = perm_size or len(own)
            # Each group's tokens have the group's places.
            assert (own[hidden] // size == hidden // size).all()
            assert ((own >= 0) == (row["predicted"] | V.special[tokens])[part]).all()
        expected = released(tokens, row["predicted"], index, reuse_length)
        assert (allowed_of(row) == ~expected).all()


@pytest.mark.parametrize("reuse_length", [0, 20])
def test_nothing_leads_back_to_what_is_predicted(reuse_length: int) -> None:
    """Through any number of layers: whatever a query sees has not seen the query's token."""
    for seed in range(10):
        tokens = text(40, seed, 0.1)
        rng = np.random.default_rng(seed)
        row = permute(tokens, V, rng, num_predict=20, reuse_length=reuse_length, length=45)
        allowed = allowed_of(row) & (row["positions"] >= 0)
        content = allowed | np.eye(45, dtype=bool)
        reached = allowed.copy()
        for _ in range(10):
            reached = reached.astype(int) @ content.astype(int) > 0
        places = row["query_at"][row["weights"] > 0]
        assert len(places) == 20
        assert not reached[places, places].any()
        # And each sees something, and one that is last in its order everything before it.
        assert allowed[places].any(axis=1).all()
        last = places[np.argmax(row["rank"][places])]
        others = (row["rank"] < row["rank"][last]) & (row["positions"] >= 0)
        assert (allowed[last] == others).all()


def test_every_order_is_as_likely() -> None:
    rng = np.random.default_rng(0)
    draws = 6000
    seen: dict[tuple[int, ...], int] = {}
    tokens = text(4)
    for _ in range(draws):
        row = permute(tokens, EACH_A_WORD, rng, num_predict=3)
        order = tuple(row["query_at"][np.argsort(row["rank"][row["query_at"]])].tolist())
        left = set(range(4)) - set(order)
        assert len(left) == 1
        if left == {3}:
            seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 6
    total = sum(seen.values())
    error = np.sqrt(total / 6 * 5 / 6)
    assert all(abs(count - total / 6) < 5 * error for count in seen.values())


def test_the_row() -> None:
    for seed in range(20):
        tokens = text(512, seed, 0.02)
        row = permute(
            tokens, V, np.random.default_rng(seed), num_predict=85, reuse_length=256, length=520
        )
        shapes = {name: (values.shape, values.dtype.name) for name, values in row.items()}
        assert shapes == {
            "tokens": ((520,), "int32"),
            "positions": ((520,), "int32"),
            "rank": ((520,), "int32"),
            "predicted": ((520,), "bool"),
            "query_at": ((85,), "int32"),
            "targets": ((85,), "int32"),
            "weights": ((85,), "float32"),
        }
        assert row["tokens"].tolist() == [*tokens.tolist(), *[PAD] * 8]
        assert row["positions"].tolist() == [*range(512), *[-1] * 8]
        assert row["weights"].all()
        assert (row["targets"] == tokens[row["query_at"]]).all()
        assert (np.diff(row["query_at"]) > 0).all()
        assert row["predicted"].sum() == 85
        assert row["predicted"][row["query_at"]].all()
        # Half of them in each part, the odd one in the first.
        assert (row["query_at"] < 256).sum() == 43
        assert not V.special[row["targets"]].any()
        # Padding is hidden even from what does not look at positions.
        assert not allowed_of(row)[:512, 512:].any()


def test_spans_over_100k_tokens() -> None:
    """Lengths 1 to 5 in proportion to 1 / length; one in seven, as each has L * 6 tokens around."""
    n, goal = 100_000, 10_000
    chosen = choose_spans(text(n), EACH_A_WORD, np.random.default_rng(1), goal)
    assert chosen.sum() == goal
    lengths = np.diff(np.flatnonzero(np.diff(np.pad(chosen, 1))))[::2]
    share = 1 / np.arange(1, 6)
    share /= share.sum()
    for length, expected in enumerate(share, 1):
        error = np.sqrt(expected * (1 - expected) / len(lengths))
        assert abs((lengths == length).mean() - expected) < 5 * error
    assert lengths.max() == 5
    assert 7 * goal - 30 <= np.flatnonzero(chosen)[-1] < 7 * goal
    # Anywhere in their context: the tokens before the first span of a row, of 6 L.
    firsts = []
    for seed in range(2000):
        chosen = choose_spans(text(64), EACH_A_WORD, np.random.default_rng(seed), 1, max_gram=1)
        firsts.append(int(np.flatnonzero(chosen)[0]))
    counts = np.bincount(firsts, minlength=6)
    assert len(counts) == 6
    assert (abs(counts - 2000 / 6) < 5 * np.sqrt(2000 * 5 / 36)).all()


def test_spans_begin_with_a_word() -> None:
    tokens = text(10_000, 2)
    chosen = choose_spans(tokens, V, np.random.default_rng(0), 1000)
    begins = np.flatnonzero(chosen & ~np.pad(chosen, 1)[:-2])
    assert len(begins) > 300
    assert V.starts_word[tokens[begins]].all()


def test_alpha_and_beta() -> None:
    """About beta in alpha + beta tokens."""
    tokens = text(20_000, 3)
    for alpha, beta in ((2, 1), (6, 2)):
        rng = np.random.default_rng(0)
        chosen = choose_spans(tokens, EACH_A_WORD, rng, 1000, alpha, beta)
        end = np.flatnonzero(chosen)[-1]
        # 1 gram of L has L * alpha / beta around it.
        assert abs(end / 1000 - (1 + alpha / beta)) < 0.05


def test_special_tokens_are_never_chosen() -> None:
    for seed in range(50):
        tokens = text(100, seed, 0.3)
        rng = np.random.default_rng(seed)
        chosen = choose_spans(tokens, V, rng, 40)
        assert chosen.sum() == 40
        assert not chosen[V.special[tokens]].any()


def test_too_few_tokens() -> None:
    """One of them always stays; the rest of the predictions have no weight."""
    for tokens in (text(0), text(1), text(2), text(5), np.full(6, SEP), np.array([CLS, 7, 8, SEP])):
        row = permute(tokens.astype(np.int32), V, np.random.default_rng(0), num_predict=8, length=9)
        ordinary = int((~V.special[tokens]).sum())
        possible = max(ordinary - 1, 0)
        assert row["weights"].tolist() == [1.0] * possible + [0.0] * (8 - possible)
        assert row["query_at"][possible:].tolist() == [0] * (8 - possible)
        assert row["targets"][possible:].tolist() == [PAD] * (8 - possible)
        if len(tokens):
            # Every query sees a token that is real, those without weight too.
            seen = allowed_of(row) & (row["positions"] >= 0)
            assert seen[row["query_at"]].any(axis=1).all()
    # A row that ends within its first part.
    row = permute(text(5), V, np.random.default_rng(0), num_predict=8, length=20, reuse_length=10)
    assert row["weights"].sum() == 4
    assert not allowed_of(row)[:5, 5:].any()


def test_equal_generators_give_equal_rows() -> None:
    tokens = text(200)
    tokens.flags.writeable = False
    first, again, other = (permute(tokens, V, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["predicted"] != other["predicted"]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_predict=0), "num_predict"),
        (dict(num_predict=101), "lower it"),
        (dict(alpha=0), "alpha"),
        (dict(beta=0), "beta"),
        (dict(max_gram=0), "max_gram"),
        (dict(perm_size=0), "perm_size"),
        (dict(perm_size=101), "more than the 100"),
        (dict(perm_size=60, reuse_length=50), "more than the 50"),
        (dict(reuse_length=100), "reuse_length"),
        (dict(reuse_length=-1), "reuse_length"),
    ],
)
def test_what_cannot_be_meant(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        permute(text(100), V, np.random.default_rng(0), **arguments)  # type: ignore[arg-type]


def test_too_many_tokens() -> None:
    with pytest.raises(UserError, match="do not fit"):
        permute(text(100), V, np.random.default_rng(0), length=99)
