"""Value and gradient against TRL's own trainers, whose loss methods run here on scripted model outputs in float64."""

import warnings
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

from components.dpo.losses import (
    LOSSES,
    RESPONSE_LOSSES,
    Loss,
    length_desensitised_logps,
    weighted_sum,
    with_divergence,
    wpo_weights,
)

with warnings.catch_warnings():
    # It warns on import that it is experimental, which is no news to a test that pins its release.
    warnings.simplefilter("ignore")
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

PAIRS, WIDTH, PROMPT, VOCABULARY = 6, 9, 3, 11
SETTINGS = {
    "beta": 0.3,
    "label_smoothing": 0.0,
    "discopop_tau": 0.5,
    "nll_weight": 0.7,
    "simpo_gamma": 0.5,
    "desirable_weight": 1.5,
    "undesirable_weight": 0.75,
}


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    # TRL makes some constants in the default type; in float32 they would hide what is compared.
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    yield
    torch.set_default_dtype(torch.float32)


class Scripted(torch.nn.Module):
    """A model whose outputs are given, one for each call."""

    is_gradient_checkpointing = False

    def __init__(self, *outputs: SimpleNamespace) -> None:
        super().__init__()
        self.outputs = list(outputs)

    def forward(self, *_: Any, **__: Any) -> SimpleNamespace:
        return self.outputs.pop(0)


def outputs(token_logps: torch.Tensor, collisions: torch.Tensor | None = None) -> SimpleNamespace:
    still = torch.zeros_like(token_logps).detach()
    top1 = still.bool()
    collisions = still if collisions is None else collisions
    return SimpleNamespace(
        log_probs=token_logps, log_sum_sq_probs=collisions, entropy=still, mean_logits=still, is_top1=top1
    )


ACCELERATOR = SimpleNamespace(
    device=torch.device("cpu"),
    gather=lambda tensor: tensor,
    gather_for_metrics=lambda tensor: tensor,
    unwrap_model=lambda model: model,
)


def trainer(kind: Any, **attributes: Any) -> Any:
    made = object.__new__(kind)
    made.__dict__ |= {
        "accelerator": ACCELERATOR,
        "aux_loss_enabled": False,
        "beta": SETTINGS["beta"],
        "model": Scripted(),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_total_train_tokens": 0,
        "_tp_size": 1,
    } | attributes
    return made


class Batch:
    """Random log-probabilities of the tokens of chosen and rejected answers of random lengths, as TRL lays them out."""

    def __init__(self, lengths: torch.Tensor | None = None, dtype: torch.dtype = torch.float64) -> None:
        self.lengths = torch.randint(1, WIDTH + 1, (2 * PAIRS,)) if lengths is None else lengths
        position = torch.arange(PROMPT + WIDTH)
        self.completion_mask = ((position >= PROMPT) & (position < PROMPT + self.lengths.unsqueeze(1))).long()
        self.mask = self.completion_mask[:, 1:].bool()
        self.leaf = (-3 * torch.rand(self.mask.shape, dtype=dtype)).requires_grad_()
        self.policy = self.leaf * self.mask
        self.reference = -3 * torch.rand(self.mask.shape, dtype=dtype) * self.mask
        self.collisions = -torch.rand(self.mask.shape, dtype=dtype)

    def near_reference(self) -> "Batch":
        """Moves the policy to within about a nat of the reference, where no divergence's score is huge."""
        self.leaf = (self.reference + 0.1 * torch.randn_like(self.reference)).requires_grad_()
        self.policy = self.leaf * self.mask
        return self

    def available(self, **replaced: Any) -> dict[str, Any]:
        """What our losses may read, for hard labels."""
        named: dict[str, Any] = dict(SETTINGS)
        for owner, tokens in (("policy", self.policy), ("reference", self.reference)):
            named[f"{owner}_chosen_logps"], named[f"{owner}_rejected_logps"] = tokens.sum(dim=1).chunk(2)
        named["chosen_lengths"], named["rejected_lengths"] = self.lengths.chunk(2)
        dtype = self.leaf.dtype
        return named | {"p": torch.ones(PAIRS, dtype=dtype), "reward_shift": torch.zeros((), dtype=dtype)} | replaced

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, self.leaf, retain_graph=True)[0]


def trl_dpo(batch: Batch, losses: dict[str, float], **changed: Any) -> torch.Tensor:
    neutral = {
        "label_smoothing": 0.0,
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 1.0,
        "use_weighting": False,
    }
    made = trainer(
        DPOTrainer,
        ref_model=Scripted(outputs(batch.reference)),
        precompute_ref_logps=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=SETTINGS["discopop_tau"]),
        **neutral | changed,
        loss_types=list(losses),
        loss_weights=list(losses.values()),
    )
    ids = torch.zeros_like(batch.completion_mask)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": batch.completion_mask}
    return made._compute_loss(Scripted(outputs(batch.policy, batch.collisions)), inputs, False)


def assert_equal(batch: Batch, ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-10) -> None:
    assert theirs.requires_grad
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(batch.gradient(ours), batch.gradient(theirs), atol=tolerance, rtol=tolerance)


# (our name, TRL's, label smoothing)
SAME = [
    ("sigmoid", "sigmoid", 0.0),
    ("sigmoid_norm", "sigmoid_norm", 0.0),
    ("ipo_mean", "ipo", 0.0),
    ("hinge", "hinge", 0.0),
    ("robust", "robust", 0.1),
    ("exo_pair", "exo_pair", 0.1),
    ("discopop", "discopop", 0.0),
    ("nca_pair", "nca_pair", 0.0),
    ("bco_pair", "bco_pair", 0.0),
    ("sppo_hard", "sppo_hard", 0.0),
    ("sppo", "sppo_hard", 0.0),
    ("aot", "aot", 0.1),
    ("aot_unpaired", "aot_unpaired", 0.1),
    ("apo_zero", "apo_zero", 0.0),
    ("apo_down", "apo_down", 0.0),
]


@pytest.mark.parametrize(("name", "theirs", "label_smoothing"), SAME)
def test_loss_equals_trl(name: str, theirs: str, label_smoothing: float) -> None:
    batch = Batch()
    ours = LOSSES[name].apply(batch.available(label_smoothing=label_smoothing)).losses.mean()
    assert_equal(batch, ours, trl_dpo(batch, {theirs: 1.0}, label_smoothing=label_smoothing))


def test_sft_equals_trl_where_lengths_are_equal() -> None:
    batch = Batch(lengths=torch.full((2 * PAIRS,), 5))
    assert_equal(batch, LOSSES["sft"].apply(batch.available()).losses.mean(), trl_dpo(batch, {"sft": 1.0}))


def test_sft_trl_weighs_pairs_by_their_length() -> None:
    # One answer of 8 tokens and five of 2: TRL counts the first with 8 / 18 and ours with 1 / 6.
    batch = Batch(lengths=torch.tensor([8, 2, 2, 2, 2, 2] * 2))
    per_pair = LOSSES["sft"].apply(batch.available()).losses
    theirs = trl_dpo(batch, {"sft": 1.0})
    assert_equal(batch, (per_pair * torch.tensor([8, 2, 2, 2, 2, 2]) / 18).sum(), theirs)
    difference = (theirs - per_pair.mean()).item()
    assert difference == pytest.approx(((8 / 18 - 1 / 6) * (per_pair[0] - per_pair[1:].mean())).item())
    assert abs(difference) > 0.01


def test_sigmoid_label_smoothing_is_not_read_by_trl() -> None:
    # eps moves eps * beta * margin from one logarithm to the other: l(-h) - l(h) = h.
    batch = Batch()
    smoothed = LOSSES["sigmoid"].apply(batch.available(label_smoothing=0.1)).losses.mean()
    theirs = trl_dpo(batch, {"sigmoid": 1.0}, label_smoothing=0.1)
    _, chosen, rejected = LOSSES["sigmoid"].apply(batch.available())
    assert (smoothed - theirs).item() == pytest.approx((0.1 * (chosen - rejected).mean()).item(), abs=1e-12)


def test_ipo_on_sums_is_not_trls() -> None:
    # The two agree only where every answer has one token.
    one, many = Batch(lengths=torch.ones(2 * PAIRS, dtype=torch.long)), Batch(lengths=torch.full((2 * PAIRS,), 5))
    assert_equal(one, LOSSES["ipo"].apply(one.available()).losses.mean(), trl_dpo(one, {"ipo": 1.0}))
    # With five tokens in every answer TRL's loss is that of sums with a target five times as large, divided by 25.
    ours = LOSSES["ipo"].apply(many.available(beta=SETTINGS["beta"] / 5)).losses.mean() / 25
    assert_equal(many, ours, trl_dpo(many, {"ipo": 1.0}))


def test_bco_pair_reward_shift_is_not_in_trl() -> None:
    # Shifting both rewards by s is what subtracting s / beta from the reference's log-ratios' sums does: TRL on shifted
    # references agrees.
    batch = Batch()
    shifted = LOSSES["bco_pair"].apply(batch.available(reward_shift=torch.tensor(0.6))).losses.mean()
    first = batch.mask & (batch.mask.cumsum(dim=1) == 1)
    batch.reference = batch.reference + first * 0.6 / SETTINGS["beta"]
    assert_equal(batch, shifted, trl_dpo(batch, {"bco_pair": 1.0}))


def test_discopop_trls_is_not_a_number_where_the_wrong_answer_leads_by_far() -> None:
    # h = -0.3 * 3000: exp(900) overflows, and TRL multiplies it by sigmoid(-900 / 0.5) = 0. Its limit is 0, which
    # leaves l(h) = 900.
    batch = Batch(lengths=torch.ones(2 * PAIRS, dtype=torch.long))
    lead = torch.tensor([3000.0] * PAIRS + [0.0] * PAIRS).unsqueeze(1)
    batch.reference = batch.policy.detach() + lead * batch.mask
    assert trl_dpo(batch, {"discopop": 1.0}).isnan()
    ours = LOSSES["discopop"].apply(batch.available()).losses.mean()
    assert ours.item() == pytest.approx(900)
    assert batch.gradient(ours).isfinite().all()


MARGIN_ONLY = [case for case in SAME if LOSSES[case[0]].margin_only]


@pytest.mark.parametrize(("name", "theirs", "label_smoothing"), MARGIN_ONLY)
@pytest.mark.parametrize(("divergence", "their_divergence"), [("forward_kl", "forward_kl"), ("js", "js_divergence")])
def test_divergence_equals_trl(
    name: str, theirs: str, label_smoothing: float, divergence: str, their_divergence: str
) -> None:
    batch = Batch().near_reference()
    ours = (
        with_divergence(LOSSES[name], divergence).apply(batch.available(label_smoothing=label_smoothing)).losses.mean()
    )
    theirs_value = trl_dpo(batch, {theirs: 1.0}, label_smoothing=label_smoothing, f_divergence_type=their_divergence)
    assert_equal(batch, ours, theirs_value)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0, 0.0])
def test_alpha_divergence_equals_trl_with_one_minus_its_coefficient(alpha: float) -> None:
    # In float32, because TRL's knows no other type.
    batch = Batch(dtype=torch.float32).near_reference()
    ours = with_divergence(LOSSES["sigmoid"], "alpha").apply(batch.available(divergence_alpha=alpha)).losses.mean()
    theirs = trl_dpo(batch, {"sigmoid": 1.0}, f_divergence_type="alpha_divergence", f_alpha_divergence_coef=1 - alpha)
    assert_equal(batch, ours, theirs, tolerance=1e-6)


@pytest.mark.parametrize("name", ["sigmoid", "apo_zero", "aot"])
def test_ld_dpo_equals_trl(name: str) -> None:
    batch = Batch()
    shared = torch.minimum(*batch.lengths.chunk(2)).repeat(2)
    replaced = {}
    for owner, tokens in (("policy", batch.policy), ("reference", batch.reference)):
        logps = length_desensitised_logps(tokens, batch.mask, shared, ld_alpha=0.4)
        replaced[f"{owner}_chosen_logps"], replaced[f"{owner}_rejected_logps"] = logps.chunk(2)
    assert_equal(
        batch, LOSSES[name].apply(batch.available(**replaced)).losses.mean(), trl_dpo(batch, {name: 1.0}, ld_alpha=0.4)
    )


@pytest.mark.parametrize("name", ["sigmoid", "apo_zero", "sppo_hard"])
def test_wpo_equals_trl(name: str) -> None:
    batch = Batch()
    chosen, rejected = wpo_weights(batch.policy, batch.collisions, batch.mask).chunk(2)
    ours = (LOSSES[name].apply(batch.available()).losses * chosen * rejected).mean()
    assert_equal(batch, ours, trl_dpo(batch, {name: 1.0}, use_weighting=True))


def test_weighted_sum_equals_trl() -> None:
    batch, weights = Batch(), {"sigmoid": 1.0, "apo_down": 0.5, "nca_pair": 0.25}
    assert_equal(batch, weighted_sum(weights).apply(batch.available()).losses.mean(), trl_dpo(batch, weights))


def test_rpo_is_trls_sum_of_sigmoid_and_sft_where_lengths_are_equal() -> None:
    batch = Batch(lengths=torch.full((2 * PAIRS,), 5))
    theirs = trl_dpo(batch, {"sigmoid": 1.0, "sft": SETTINGS["nll_weight"]})
    assert_equal(batch, LOSSES["rpo"].apply(batch.available()).losses.mean(), theirs)


def trl_kto(batch: Batch, loss: str, labels: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
    """TRL takes the KL term from log-probabilities of mismatched responses.

    Here all tokens of theirs have probability 1 but the first.
    """
    mismatched = torch.zeros_like(batch.policy).detach()
    mismatched[:, -1] = kl
    made = trainer(
        KTOTrainer,
        calculate_KL=loss == "kto",
        precompute_ref_logps=True,
        loss_type=loss,
        desirable_weight=SETTINGS["desirable_weight"],
        undesirable_weight=SETTINGS["undesirable_weight"],
    )
    ids = torch.zeros_like(batch.completion_mask)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": batch.completion_mask,
        "label": labels,
    }
    inputs |= {
        "KL_input_ids": ids,
        "KL_attention_mask": torch.ones_like(ids),
        "KL_completion_mask": batch.completion_mask,
    }
    inputs |= {"ref_logps": batch.reference.sum(dim=1), "ref_KL_logps": torch.zeros(2 * PAIRS)}
    script = [outputs(mismatched)] * (loss == "kto")
    return made._compute_loss(Scripted(*script, outputs(batch.policy)), inputs, False)


@pytest.mark.parametrize("name", RESPONSE_LOSSES)
@pytest.mark.parametrize("kl", [2.5, -1.0])
def test_response_loss_equals_trl(name: str, kl: float) -> None:
    batch, labels = Batch(), torch.tensor([1, 1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0]).bool()
    available = SETTINGS | {"policy_logps": batch.policy.sum(dim=1), "reference_logps": batch.reference.sum(dim=1)}
    ours = RESPONSE_LOSSES[name].apply(available | {"p": labels.double(), "kl": torch.tensor(kl)}).losses.mean()
    assert_equal(batch, ours, trl_kto(batch, name, labels, torch.tensor(kl)))


def test_kto_of_pairs_equals_trl_on_the_pairs_taken_apart() -> None:
    batch, labels = Batch(), torch.tensor([True] * PAIRS + [False] * PAIRS)
    ours = LOSSES["kto"].apply(batch.available(kl=torch.tensor(2.5))).losses.mean()
    assert_equal(batch, ours, trl_kto(batch, "kto", labels, torch.tensor(2.5)))


class LogitsBatch:
    """Random logits over a small vocabulary, for the trainers that run the whole forward."""

    def __init__(self, prompt: int, lengths: list[int]) -> None:
        width = prompt + max(lengths)
        position, ends = torch.arange(width), prompt + torch.tensor(lengths * 2).unsqueeze(1)
        self.ids = torch.randint(0, VOCABULARY, (2 * len(lengths), width))
        self.leaf = torch.randn(2 * len(lengths), width, VOCABULARY, requires_grad=True)
        self.lengths = torch.tensor(lengths)
        attention = (position < ends).long()
        labels = self.ids.masked_fill((position < prompt) | (attention == 0), -100)
        self.inputs = {}
        for side, rows in (("chosen", slice(None, len(lengths))), ("rejected", slice(len(lengths), None))):
            named = {"input_ids": self.ids[rows], "attention_mask": attention[rows], "labels": labels[rows]}
            self.inputs |= {f"{side}_{key}": value for key, value in named.items()}
        token_logps = self.leaf.log_softmax(dim=2)[:, :-1].gather(2, self.ids[:, 1:].unsqueeze(2)).squeeze(2)
        self.logps = (token_logps * (labels[:, 1:] != -100)).sum(dim=1)

    def available(self, **replaced: Any) -> dict[str, Any]:
        chosen, rejected = self.logps.chunk(2)
        named = {"policy_chosen_logps": chosen, "policy_rejected_logps": rejected, "p": torch.ones(len(self.lengths))}
        return SETTINGS | named | {"chosen_lengths": self.lengths, "rejected_lengths": self.lengths} | replaced

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, self.leaf, retain_graph=True)[0]

    def trl(self, kind: Any, **attributes: Any) -> torch.Tensor:
        made = trainer(kind, is_encoder_decoder=False, pad_token_id=0, padding_value=0, **attributes)
        return made.get_batch_loss_metrics(Scripted(SimpleNamespace(logits=self.leaf)), self.inputs)[0]


def trl_cpo(batch: LogitsBatch, loss: str, cpo_alpha: float, label_smoothing: float) -> torch.Tensor:
    return batch.trl(
        CPOTrainer,
        loss_type=loss,
        cpo_alpha=cpo_alpha,
        alpha=0.0,
        simpo_gamma=SETTINGS["simpo_gamma"],
        label_smoothing=label_smoothing,
    )


def test_simpo_equals_trl() -> None:
    batch = LogitsBatch(3, [5, 2, 7, 1])
    assert_logits_equal(batch, LOSSES["simpo"], trl_cpo(batch, "simpo", 0.0, 0.0))


def test_simpo_trls_flipped_labels_ask_for_no_margin() -> None:
    # With rewards h apart, a flipped label costs l(-h - gamma) here and l(gamma - h) there, l = -log sigmoid.
    batch = LogitsBatch(3, [5, 2, 7, 1])
    losses, chosen, rejected = LOSSES["simpo"].apply(batch.available(label_smoothing=0.2))
    apart, gamma = chosen - rejected, SETTINGS["simpo_gamma"]
    ours, theirs = (1 + (apart + gamma).exp()).log(), (1 + (apart - gamma).exp()).log()
    difference = (losses.mean() - trl_cpo(batch, "simpo", 0.0, 0.2)).item()
    assert difference == pytest.approx((0.2 * (ours - theirs).mean()).item(), abs=1e-10)
    assert difference > 0.05


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_cpo_equals_trl_where_lengths_are_equal(label_smoothing: float) -> None:
    # Smoothing does not reach TRL's likelihood term, so it is compared without that.
    weight = 0.0 if label_smoothing else SETTINGS["nll_weight"]
    batch = LogitsBatch(3, [5, 5, 5])
    theirs = trl_cpo(batch, "sigmoid", weight, label_smoothing)
    assert_logits_equal(batch, LOSSES["cpo"], theirs, nll_weight=weight, label_smoothing=label_smoothing)


def test_orpo_equals_trl_where_lengths_are_equal_and_prompts_have_no_likelihood() -> None:
    # A prompt of one token is never predicted, so TRL's likelihood is that of the response. TRL computes the odds in
    # float32.
    batch = LogitsBatch(1, [5, 5, 5])
    assert_logits_equal(batch, LOSSES["orpo"], batch.trl(ORPOTrainer), tolerance=1e-6)


def test_orpo_trls_likelihood_is_of_the_prompt_too() -> None:
    # Four tokens of a prompt of five and three of the response: TRL's likelihood term is the mean over all seven.
    batch = LogitsBatch(5, [3, 3])
    token_nll = -batch.leaf[:2].log_softmax(dim=2)[:, :-1].gather(2, batch.ids[:2, 1:].unsqueeze(2)).squeeze(2)
    difference = (batch.trl(ORPOTrainer) - LOSSES["orpo"].apply(batch.available()).losses.mean()).item()
    assert difference == pytest.approx((token_nll.mean() - token_nll[:, 4:].mean()).item(), abs=1e-6)
    assert abs(difference) > 0.01


def assert_logits_equal(
    batch: LogitsBatch, loss: Loss, theirs: torch.Tensor, tolerance: float = 1e-10, **replaced: float
) -> None:
    ours = loss.apply(batch.available(**replaced)).losses.mean()
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance, check_dtype=False)
    torch.testing.assert_close(batch.gradient(ours), batch.gradient(theirs), atol=tolerance, rtol=tolerance)
