"""Titles as vectors: TF-IDF of words or n-grams, or the mean of a transformer's last layer.

    encoder = build_text_encoder(config.text, titles)     # fitted to the titles of training
    encoder.encode(["red shoe", ""])                      # (2, D): a unit row, and a row of zeros
    encoder = text_encoder_of(encoder.state())            # from tensors and plain values

A title that says nothing (blank, or of n-grams that training did not have) is a row of zeros: its
cosine with everything is 0, and two such titles do not match.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.utils.errors import CheckpointError, DataError
from common.utils.text import did_you_mean
from projects.product_matching.core.config import TextConfig

ANALYZERS = ("word", "char", "char_wb")
_WIDEST = 1024  # columns of a vector; more n-grams than that are projected
_SIGNS = 8  # columns that an n-gram is projected to
_LONGEST = 32  # characters or words of an n-gram that a file may ask for


class TextEncoder(Protocol):
    """Titles to vectors."""

    def encode(self, titles: Sequence[str]) -> Tensor:
        """Unit rows ``(N, D)``, float32; zeros for titles that say nothing."""
        ...

    def state(self) -> dict[str, Any]:
        """Tensors and plain values that ``text_encoder_of`` takes."""
        ...


def build_text_encoder(config: TextConfig, titles: Sequence[str]) -> TextEncoder:
    """The encoder that the section ``text`` describes.

    Args:
        config: With ``mode`` other than ``none``.
        titles: Of training; TF-IDF learns from them which n-grams there are, and how rare.

    Raises:
        DataError: if no title says anything.
        ConfigError, CheckpointError, DownloadError: if a transformer cannot be had.
    """
    if config.encoder == "transformers":
        from projects.product_matching.core.text.transformer import TransformersEncoder

        assert config.model is not None
        return TransformersEncoder(config.model, batch_size=config.batch_size)
    ngrams = (config.ngrams[0], config.ngrams[1])
    return TfidfEncoder.fit(titles, config.analyzer, ngrams, config.max_features)


def text_encoder_of(state: Mapping[str, Any]) -> TextEncoder:
    """The encoder whose ``state`` this is; it may come from somebody else's file.

    Raises:
        CheckpointError: if it is none, or its parts do not belong together.
        ConfigError, DownloadError: if a transformer cannot be had.
    """
    kind = state.get("encoder")
    if kind == "tfidf":
        return TfidfEncoder.of_state(state)
    if kind == "transformers":
        from projects.product_matching.core.text.transformer import TransformersEncoder

        return TransformersEncoder.of_state(state)
    hint = did_you_mean(str(kind), ("tfidf", "transformers"))
    raise CheckpointError(f"the encoder of titles is {str(kind)!a}; {hint}")


def has_words(title: str) -> bool:
    """Whether a title has a letter or a digit."""
    return any(character.isalnum() for character in title)


class TfidfEncoder:
    """Counts of n-grams, rare ones weighted more, as ``TfidfVectorizer`` of scikit-learn has them.

    With more than 1,024 n-grams the vectors are projected to that width by sparse random signs
    (Achlioptas 2003; Li et al. 2006), which keeps cosines but for a standard deviation of 0.03.

    Args:
        analyzer: ``word``, ``char``, or ``char_wb``: characters within words.
        ngrams: The shortest and the longest.
        vocabulary: The n-grams, in the order of their columns.
        idf: Weight of each, ``(V,)``.
        projection: Sparse ``(1024, V)`` in SciPy's CSR form, or ``None``.
    """

    def __init__(
        self,
        analyzer: str,
        ngrams: tuple[int, int],
        vocabulary: Sequence[str],
        idf: Tensor,
        projection: Any = None,
    ) -> None:
        self.analyzer, self.ngrams = analyzer, ngrams
        self._vocabulary, self._idf, self._projection = list(vocabulary), idf.double(), projection
        self._vectorizer = _vectorizer(analyzer, ngrams, vocabulary=self._vocabulary)
        self._vectorizer.idf_ = self._idf.numpy()

    @classmethod
    def fit(
        cls, titles: Sequence[str], analyzer: str, ngrams: tuple[int, int], max_features: int
    ) -> "TfidfEncoder":
        """Learn which n-grams there are, and how rare each is.

        Raises:
            DataError: if no title has a word.
        """
        from sklearn.random_projection import SparseRandomProjection

        said = [title for title in titles if has_words(title)]
        vectorizer = _vectorizer(analyzer, ngrams, max_features=max_features)
        try:
            vectorizer.fit(said)
        except ValueError:
            raise DataError(
                f"none of {len(titles):,} titles has a word to learn from; is the column of titles "
                "the right one?"
            ) from None
        vocabulary = vectorizer.get_feature_names_out().tolist()
        projection = None
        if len(vocabulary) > _WIDEST:
            signs = SparseRandomProjection(_WIDEST, density=_SIGNS / _WIDEST, random_state=0)
            projection = signs.fit(np.zeros((1, len(vocabulary)), np.float32)).components_
            projection = projection.tocsr().astype(np.float32)
        return cls(analyzer, ngrams, vocabulary, torch.from_numpy(vectorizer.idf_), projection)

    def encode(self, titles: Sequence[str]) -> Tensor:
        """Unit rows ``(N, D)``, float32; zeros where no n-gram of training is found."""
        if not titles:
            width = len(self._idf) if self._projection is None else self._projection.shape[0]
            return torch.empty(0, width)
        counts = self._vectorizer.transform(titles)
        if self._projection is not None:
            counts = counts @ self._projection.T
        return F.normalize(torch.from_numpy(counts.toarray()).float())

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        signs = self._projection
        return {
            "encoder": "tfidf",
            "analyzer": self.analyzer,
            "ngrams": list(self.ngrams),
            "vocabulary": self._vocabulary,
            "idf": self._idf,
            "projection": (
                signs
                if signs is None
                else {
                    "values": torch.from_numpy(signs.data),
                    "columns": torch.from_numpy(signs.indices.astype(np.int32)),
                    "ends": torch.from_numpy(signs.indptr.astype(np.int64)),
                }
            ),
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "TfidfEncoder":
        """The inverse of ``state``.

        Raises:
            CheckpointError: if a value is missing or does not belong to the others.
        """
        vocabulary, ngrams, idf = (state.get(key) for key in ("vocabulary", "ngrams", "idf"))
        problem = _problem_of_words(state.get("analyzer"), ngrams, vocabulary)
        problem = problem or _problem_of_weights(len(vocabulary or ()), idf)
        if problem:
            raise CheckpointError(f"the TF-IDF of titles is damaged: {problem}")
        projection = _projection_of(state.get("projection"), len(vocabulary or ()))
        lengths: Any = tuple(ngrams or ())
        return cls(state["analyzer"], lengths, vocabulary or (), state["idf"], projection)


def _vectorizer(analyzer: str, ngrams: tuple[int, int], **options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer=analyzer, ngram_range=ngrams, strip_accents="unicode", sublinear_tf=True, **options
    )


def _problem_of_words(analyzer: Any, ngrams: Any, vocabulary: Any) -> str:
    if analyzer not in ANALYZERS:
        return f"analyzer is {str(analyzer)!a}, expected one of {', '.join(ANALYZERS)}"
    lengths = ngrams if isinstance(ngrams, list) and len(ngrams) == 2 else [0, 0]
    if not all(type(n) is int for n in lengths) or not 1 <= lengths[0] <= lengths[1] <= _LONGEST:
        return f"ngrams is {str(ngrams)[:80]!a}, expected the shortest and the longest"
    if not isinstance(vocabulary, list) or not vocabulary:
        return "it has no vocabulary"
    if not all(isinstance(term, str) for term in vocabulary):
        return "its vocabulary holds more than text"
    return "" if len(set(vocabulary)) == len(vocabulary) else "its vocabulary names a term twice"


def _problem_of_weights(terms: int, idf: Any) -> str:
    if not isinstance(idf, Tensor) or not idf.is_floating_point() or idf.shape != (terms,):
        return f"it has no weight for each of {terms:,} terms"
    is_sound = bool(((idf > 0) & (idf < math.inf)).all())
    return "" if is_sound else "a weight is not a positive number"


def _projection_of(state: Any, terms: int) -> Any:
    """SciPy's matrix, of which every index was looked at: it trusts them."""
    from scipy.sparse import csr_array

    if state is None and terms <= _WIDEST:
        return None
    try:
        parts = (state["values"].float(), state["columns"].int(), state["ends"].long())
        found = csr_array(tuple(part.numpy() for part in parts), shape=(_WIDEST, terms))
        found.check_format(full_check=True)
    except (TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"the TF-IDF of titles is damaged: its projection of {terms:,} terms is none "
            f"({' '.join(str(error).split())[:100]})"
        ) from None
    if not np.isfinite(found.data).all():
        raise CheckpointError("the TF-IDF of titles is damaged: its projection is not finite")
    return found
