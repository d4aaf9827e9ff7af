"""Facts of the paper, and its commands end to end."""

import json
from pathlib import Path

import pytest
import torch
from torch.distributions import Bernoulli, Normal

from common.config import compose, load_run_config
from common.data.info import DatasetInfo
from common.losses import kl_to_standard_normal
from common.utils.errors import ConfigError
from papers.vae import sample
from papers.vae import train as paper
from papers.vae.bounds import active_units, importance_weighted_bound
from papers.vae.evaluate import evaluate
from papers.vae.latent_space import manifold, manifold_grid, prior_samples
from papers.vae.model import VAE, ModelConfig, VAETask, reparameterize


def _task(latent: int = 3, shape: tuple[int, ...] = (1, 4, 4)) -> VAETask:
    torch.manual_seed(0)
    task = VAETask(ModelConfig(16, latent))
    _, context = compose(paper.Config, paper.__file__)
    task.configure(DatasetInfo(input_shape=shape), context)
    return task


@pytest.mark.fact("appendix B")
def test_the_closed_form_of_the_divergence_is_its_monte_carlo_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.tensor([[0.8, -0.3]]), torch.tensor([[-1.0, 0.4]])
    epsilon = torch.randn(200_000, 2, generator=generator)
    z = reparameterize(mean, log_variance, epsilon)
    q = Normal(mean, (0.5 * log_variance).exp())
    sampled = (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1).mean()
    closed = kl_to_standard_normal(mean, log_variance).item()
    assert sampled.item() == pytest.approx(closed, abs=0.01)


@pytest.mark.fact("section 2.4")
def test_the_gradient_through_a_sample_is_the_one_derived_by_hand() -> None:
    mean = torch.tensor([[0.7, -0.2]], requires_grad=True)
    log_variance = torch.tensor([[0.4, -1.1]], requires_grad=True)
    epsilon = torch.tensor([[1.3, -0.6]])
    z = reparameterize(mean, log_variance, epsilon)
    z.square().sum().backward()  # f(z) = z^2
    sigma = (0.5 * log_variance).exp()
    torch.testing.assert_close(mean.grad, 2 * z.detach())
    torch.testing.assert_close(log_variance.grad, (2 * z * 0.5 * sigma * epsilon).detach())


@pytest.mark.fact("section 2.4")
def test_the_samples_gradient_is_an_unbiased_one_of_the_expectation() -> None:
    mean = torch.tensor([0.7], requires_grad=True)
    log_variance = torch.tensor([0.4], requires_grad=True)
    epsilon = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    # E[z^2] = mu^2 + sigma^2
    reparameterize(mean.expand(200_000, 1), log_variance.expand(200_000, 1), epsilon).square().mean(
        0
    ).backward()
    assert mean.grad.item() == pytest.approx(2 * 0.7, rel=0.02)
    assert log_variance.grad.item() == pytest.approx(torch.tensor(0.4).exp().item(), rel=0.02)


@pytest.mark.fact("eq. 7")
def test_the_loss_is_the_bound_written_with_torch_distributions() -> None:
    task = _task()
    images = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8)
    output = task.eval_step({"image": images})
    x = images.flatten(1) / 255
    mean, log_variance = task.model.encode(x)
    q = Normal(mean, (0.5 * log_variance).exp())
    epsilon = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    z = q.mean + q.stddev * epsilon
    log_p = Bernoulli(logits=task.model.decode(z), validate_args=False).log_prob(x).sum()
    kl = torch.distributions.kl_divergence(q, Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(output.loss, kl - log_p)
    torch.testing.assert_close(output.metrics["elbo"], (log_p - kl).detach())


@pytest.mark.fact("eq. 2-3, 7")
def test_the_bounds_are_in_order_below_the_true_log_likelihood() -> None:
    """With one latent dimension log p(x) is an integral that a grid computes."""
    task = _task(latent=1)
    with torch.no_grad():  # a decoder that uses z, with an encoder that does not know how
        task.model.decoder.weight.mul_(4.0)
        task.model.logits.weight.mul_(4.0)
    x = torch.rand(40, 16, generator=torch.Generator().manual_seed(1)).round()
    z = torch.linspace(-8, 8, 4001)[:, None]
    with torch.no_grad():
        log_p_z = Normal(0.0, 1.0).log_prob(z).squeeze(1)
        log_p_x_z = Bernoulli(logits=task.model.decode(z)).log_prob(x[:, None]).sum(-1)
        truth = ((log_p_x_z + log_p_z).logsumexp(1) + torch.tensor(16 / 4000).log()).mean().item()
    elbo, ten, thousand = (
        sum(importance_weighted_bound(task.model, [x], k, seed) for seed in range(repeats))
        / repeats
        for k, repeats in ((1, 200), (10, 20), (2000, 1))
    )
    assert elbo < ten < thousand < truth + 0.02
    assert thousand == pytest.approx(truth, abs=0.05)


def test_with_one_sample_the_importance_weighted_bound_is_the_elbo() -> None:
    task = _task()
    images = torch.randint(256, (50, 1, 4, 4), dtype=torch.uint8)
    x = images.flatten(1) / 255
    exact = [importance_weighted_bound(task.model, [x], 1, seed) for seed in range(300)]
    torch.manual_seed(0)
    batch = {"image": images}
    elbos = [float(task.train_step(batch).metrics["elbo"]) / 50 for _ in range(300)]
    assert sum(exact) / 300 == pytest.approx(sum(elbos) / 300, abs=0.02)


def test_784_400_20_has_652_824_parameters() -> None:
    config, _ = compose(paper.Config, paper.__file__, "configs/mnist.yaml")
    network = VAE(784, config.model)
    assert sum(p.numel() for p in network.parameters()) == 652_824


def test_units_that_follow_the_image_are_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([1.0, 0.2, 0.05, 0.0])  # variances 1, 0.04, 0.0025, 0
    means = torch.randn(5000, 4, generator=generator) * spread + 3.0
    assert active_units(means) == 2


def test_an_evaluation_repeats_itself_and_training_does_not() -> None:
    task, batch = _task(), {"image": torch.zeros(4, 1, 4, 4, dtype=torch.uint8)}
    state = torch.get_rng_state()
    assert torch.equal(task.eval_step(batch).loss, task.eval_step(batch).loss)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(task.train_step(batch).loss, task.train_step(batch).loss)


@pytest.mark.fact("figure 4")
def test_the_manifold_is_spaced_evenly_in_probability() -> None:
    grid = manifold_grid(4).view(4, 4, 2)
    probabilities = Normal(0.0, 1.0).cdf(grid)
    torch.testing.assert_close(probabilities[0, :, 0], torch.tensor([0.125, 0.375, 0.625, 0.875]))
    torch.testing.assert_close(probabilities[:, 0, 1], torch.tensor([0.875, 0.625, 0.375, 0.125]))


def test_a_manifold_of_another_dimension_is_refused() -> None:
    assert manifold(_task(latent=2), 3).shape == (9, 1, 4, 4)
    with pytest.raises(ConfigError, match=r"model\.latent is 3"):
        manifold(_task(latent=3), 3)


def test_samples_of_the_prior_depend_on_the_seed_only() -> None:
    task = _task()
    first = prior_samples(task, 4, seed=1)
    assert first.shape == (4, 1, 4, 4)
    assert torch.equal(first, prior_samples(task, 4, seed=1))
    assert not torch.equal(first, prior_samples(task, 4, seed=2))


def test_training_evaluation_and_sampling_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSETS_DIR", str(tmp_path))
    quick = ["trainer.max_steps=20", "model.latent=2", "importance_samples=5"]
    paper.train(*compose(paper.Config, paper.__file__, overrides=[*quick, "trainer.loggers=[]"]))
    (run,) = (tmp_path / "outputs" / "vae").iterdir()
    drawn = {path.name for path in (run / "plots").iterdir()}
    assert drawn >= {"reconstructions.png", "samples.png"}
    config, context = load_run_config(paper.Config, run)
    context.checkpoint = "final"
    evaluate(config, context)
    trained = json.loads((run / "run.json").read_text())["metrics"]
    assert json.loads((run / "evaluation.json").read_text())["metrics"] == trained
    assert trained["test/elbo"] == pytest.approx(-trained["test/loss"])
    out = tmp_path / "new" / "map.png"
    words = ["--run", str(run), "--out", str(out), "--manifold", "--side", "3"]
    monkeypatch.setattr("sys.argv", ["sample", *words])
    sample.main()
    assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.nope"], "x.nope is no name of a picture; expected one with .png"),
        (["--out", "x.png", "--count", "0"], "--count is 0, expected 1 or more\n"),
        (["--out", "x.png", "--seed", "-1"], "--seed is -1, expected 0 to 9223372036854775807\n"),
        (["--out", "x.png", "--side", "0"], "--side is 0, expected 1 or more\n"),
    ],
)
def test_words_that_make_no_sense_are_one_line_before_any_work(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["sample", *words])
    with pytest.raises(SystemExit) as caught:
        sample.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
