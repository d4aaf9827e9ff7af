"""Facts of the paper, and its commands end to end."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.config import compose, load_run_config
from common.data.info import DatasetInfo
from common.training.task import StepOutput
from common.utils import load_checkpoint
from common.utils.errors import ConfigError
from papers.ddpm import sample
from papers.ddpm import train as paper
from papers.ddpm.diffusion import GaussianDiffusion, linear_betas
from papers.ddpm.evaluate import evaluate
from papers.ddpm.model import DiffusionConfig, DiffusionTask, to_model_range, to_pixels
from papers.ddpm.quality import ClassFeatures
from papers.ddpm.unet import UNet, UNetConfig, time_embedding

PAPERS = linear_betas(1000, 1e-4, 0.02)
SMALL = UNetConfig(channels=8, multipliers=[1, 2], num_blocks=1, groups=4)


def _images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _steps(*steps: int) -> torch.Tensor:
    return torch.tensor(steps)


# ---- the forward chain --------------------------------------------------------------------


@pytest.mark.fact("eq. 4")
def test_the_marginal_is_what_iterating_the_steps_of_equation_2_gives() -> None:
    diffusion = GaussianDiffusion(PAPERS)
    mean, variance = torch.tensor(0.7, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for step, beta in enumerate(PAPERS):
        mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
        if step in (0, 9, 499, 999):
            ones = torch.ones(1, 1, 1, 1)
            of_signal = diffusion.q_sample(0.7 * ones, _steps(step), 0 * ones)
            of_noise = diffusion.q_sample(0 * ones, _steps(step), ones)
            assert of_signal.item() == pytest.approx(mean.item(), rel=1e-5)
            assert of_noise.item() ** 2 == pytest.approx(variance.item(), rel=1e-5)


@pytest.mark.fact("section 4")
def test_the_papers_chain_ends_in_noise() -> None:
    final = GaussianDiffusion(PAPERS).alphas_bar[-1].item()
    # KL(N(sqrt(abar) x_0, 1 - abar) || N(0, 1)) of a pixel, at its largest: x_0 = 1 or -1
    nats = 0.5 * (final + (1 - final) - 1 - math.log1p(-final))
    assert final == pytest.approx(4.04e-5, rel=1e-2)
    assert 1e-5 < nats / math.log(2) < 1e-4  # the paper: about 1e-5 bits per dimension


@pytest.mark.fact("eq. 6-7")
@pytest.mark.parametrize("step", [1, 5, 19])
def test_the_posterior_is_what_bayes_rule_gives_by_numerical_integration(step: int) -> None:
    betas = linear_betas(20, 0.01, 0.3)
    diffusion = GaussianDiffusion(betas)
    x_0, x_t = 0.4, -0.3
    grid = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    before = (1 - betas).cumprod(0)[step - 1]
    log_density = -0.5 * (x_t - (1 - betas[step]).sqrt() * grid).square() / betas[step]
    log_density -= 0.5 * (grid - before.sqrt() * x_0).square() / (1 - before)
    weights = log_density.softmax(0)
    mean = (weights * grid).sum()
    variance = (weights * (grid - mean).square()).sum()
    ones = torch.ones(1, 1, 1, 1)
    found = diffusion.posterior_mean(x_0 * ones, x_t * ones, _steps(step))
    assert found.item() == pytest.approx(mean.item(), rel=1e-5)
    assert diffusion.posterior_variance[step].item() == pytest.approx(variance.item(), rel=1e-5)


@pytest.mark.fact("eq. 7")
def test_the_last_reverse_step_is_certain_of_x_0() -> None:
    diffusion = GaussianDiffusion(PAPERS)
    x_0, x_1 = _images(2, 1, 4, 4), _images(2, 1, 4, 4, seed=1)
    torch.testing.assert_close(diffusion.posterior_mean(x_0, x_1, _steps(0, 0)), x_0)
    assert diffusion.posterior_variance[0] == 0.0


@pytest.mark.fact("eq. 15")
@pytest.mark.parametrize("step", [0, 500, 999])
def test_the_right_noise_gives_x_0_back(step: int) -> None:
    diffusion = GaussianDiffusion(PAPERS)
    x_0, epsilon = _images(3, 1, 4, 4), _images(3, 1, 4, 4, seed=1)
    t = _steps(step, step, step)
    x_t = diffusion.q_sample(x_0, t, epsilon)
    # At the end of the chain x_0 is 0.6 percent of x_t: float32 leaves 4 digits.
    torch.testing.assert_close(diffusion.predict_x_0(x_t, t, epsilon), x_0, atol=2e-4, rtol=1e-4)


# ---- the reverse chain --------------------------------------------------------------------


@pytest.mark.fact("algorithm 2")
def test_a_reverse_step_without_clipping_is_line_4_as_printed() -> None:
    diffusion = GaussianDiffusion(PAPERS)
    x, epsilon, z = (_images(4, 1, 4, 4, seed=seed) for seed in range(3))
    t = _steps(1, 10, 300, 999)
    beta = PAPERS[t].view(-1, 1, 1, 1)
    rest = 1 - (1 - PAPERS).cumprod(0)[t].view(-1, 1, 1, 1)
    expected = (x - beta / rest.sqrt() * epsilon) / (1 - beta).sqrt() + beta.sqrt() * z
    found = diffusion.p_sample(x, t, epsilon, z, clip=False)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("ours", "theirs"), [("large", "fixed_large"), ("small", "fixed_small")])
def test_diffusers_agrees_on_schedule_marginal_and_reverse_steps(ours: str, theirs: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.DDPMScheduler(1000, 1e-4, 0.02, variance_type=theirs, clip_sample=True)
    diffusion = GaussianDiffusion(PAPERS, ours)
    torch.testing.assert_close(diffusion.alphas_bar, peer.alphas_cumprod, rtol=1e-4, atol=1e-7)
    x, epsilon = _images(2, 1, 4, 4), _images(2, 1, 4, 4, seed=1)
    for step in (999, 400, 2, 0):
        t = _steps(step, step)
        marginal = peer.add_noise(x, epsilon, t)
        torch.testing.assert_close(diffusion.q_sample(x, t, epsilon), marginal)
        generator = torch.Generator().manual_seed(7)
        expected = peer.step(epsilon, step, x, generator=generator).prev_sample
        z = _images(2, 1, 4, 4, seed=7)
        found = diffusion.p_sample(x, t, epsilon, z)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_network_that_knows_the_only_image_draws_it() -> None:
    image = _images(1, 1, 4, 4).clamp(-1, 1)
    diffusion = GaussianDiffusion(linear_betas(50, 1e-3, 0.2), "small")

    def knows(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal = diffusion.alphas_bar[t].view(-1, 1, 1, 1)
        return (x - signal.sqrt() * image) / (1 - signal).sqrt()

    *_, drawn = diffusion.trajectory(knows, (3, 1, 4, 4), torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, image.expand(3, 1, 4, 4), atol=1e-4, rtol=1e-4)


def test_the_right_network_draws_a_gaussian_of_the_datas_mean_and_deviation() -> None:
    diffusion = GaussianDiffusion(PAPERS)
    mean, deviation = 0.3, 0.2

    def knows(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """E[epsilon | x_t] for x_0 ~ N(mean, deviation^2)."""
        signal = diffusion.alphas_bar[t].view(-1, 1, 1, 1)
        spread = signal * deviation**2 + 1 - signal
        return (1 - signal).sqrt() * (x - signal.sqrt() * mean) / spread

    generator = torch.Generator().manual_seed(0)
    *_, drawn = diffusion.trajectory(knows, (2000, 1, 1, 1), generator)
    assert drawn.mean().item() == pytest.approx(mean, abs=0.02)
    assert drawn.std().item() == pytest.approx(deviation, rel=0.1)


def test_a_shorter_chain_has_the_marginals_of_the_steps_it_keeps() -> None:
    diffusion = GaussianDiffusion(PAPERS)
    shorter = diffusion.respaced(50)
    assert shorter.timesteps[0] == 0
    assert shorter.timesteps[-1] == 999
    torch.testing.assert_close(shorter.alphas_bar, diffusion.alphas_bar[shorter.timesteps])
    whole = diffusion.respaced(1000)
    torch.testing.assert_close(whole.betas, diffusion.betas, rtol=1e-3, atol=1e-8)
    for wrong in (0, 1001):
        with pytest.raises(ConfigError, match="expected 1 to 1000"):
            diffusion.respaced(wrong)


# ---- the network --------------------------------------------------------------------------


@pytest.mark.fact("appendix B")
def test_the_cifar_10_network_has_35_7_million_parameters() -> None:
    config, context = compose(paper.Config, paper.__file__, "configs/cifar10.yaml")
    with torch.device("meta"):
        task = DiffusionTask(config.model, config.diffusion)
        task.configure(DatasetInfo(input_shape=(3, 32, 32)), context)
    assert sum(p.numel() for p in task.parameters()) == 35_746_307


def test_diffusers_counts_the_same_parameters_for_that_network() -> None:
    diffusers = pytest.importorskip("diffusers")
    config, _ = compose(paper.Config, paper.__file__, "configs/cifar10.yaml")
    with torch.device("meta"):
        peer = diffusers.UNet2DModel(
            sample_size=32,
            block_out_channels=(128, 256, 256, 256),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
        )
        ours = UNet(3, config.model)
    counts = [sum(p.numel() for p in network.parameters()) for network in (peer, ours)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("size", [7, 8, 28])
def test_any_size_of_image_comes_back_and_the_first_prediction_is_zero(size: int) -> None:
    network = UNet(1, UNetConfig(8, [1, 2, 2], num_blocks=2, groups=4)).eval()
    predicted = network(_images(2, 1, size, size), _steps(0, 50))
    assert predicted.shape == (2, 1, size, size)
    assert not predicted.any()


def test_what_a_patch_holds_is_predicted_from_the_patches_around_it() -> None:
    torch.manual_seed(0)
    network = UNet(1, UNetConfig(8, [1], 1, -1, groups=4, patch_size=2)).eval()
    # Before training the blocks are their shortcuts: two 3 x 3 convolutions of patches are left.
    torch.nn.init.normal_(network.last.weight)
    network.last_norm = torch.nn.Identity()
    x = _images(1, 1, 16, 16)
    changed = x.clone()
    changed[..., 4, 4] += 1.0
    with torch.no_grad():
        moved = (network(x, _steps(3)) != network(changed, _steps(3)))[0, 0]
    assert moved[:10, :10].all()
    assert not moved[10:].any()
    assert not moved[:, 10:].any()


def test_the_network_knows_the_time() -> None:
    embedded = time_embedding(_steps(0, 1, 999), 32)
    assert embedded.shape == (3, 32)
    torch.testing.assert_close(embedded[0], torch.tensor([0.0] * 16 + [1.0] * 16))
    torch.testing.assert_close(embedded[1, 0], torch.tensor(1.0).sin())
    torch.testing.assert_close(embedded[1, 15], torch.tensor(1e-4).sin())


def test_time_embedding_is_that_of_diffusers() -> None:
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    t = _steps(0, 3, 250, 999)
    expected = embeddings.get_timestep_embedding(t, 64, downscale_freq_shift=1)
    torch.testing.assert_close(time_embedding(t, 64), expected, atol=1e-4, rtol=1e-4)


# ---- the task -----------------------------------------------------------------------------


def _task(**values: object) -> DiffusionTask:
    torch.manual_seed(0)
    task = DiffusionTask(SMALL, DiffusionConfig(20, 1e-3, 0.3))
    _, context = compose(paper.Config, paper.__file__)
    task.configure(DatasetInfo(input_shape=(1, 8, 8)), context)
    return task


@pytest.mark.fact("eq. 14")
def test_a_network_that_predicts_nothing_has_the_loss_of_the_noise_itself() -> None:
    images = torch.randint(256, (500, 1, 8, 8), dtype=torch.uint8)
    output: StepOutput = _task().eval_step({"image": images})
    noise = _images(500, 1, 8, 8)  # the seed of an evaluation
    assert output.loss.item() / 500 == pytest.approx(noise.square().mean().item(), rel=1e-5)


def test_an_evaluation_repeats_itself_and_leaves_the_generator_alone() -> None:
    task, batch = _task().eval(), {"image": torch.zeros(6, 1, 8, 8, dtype=torch.uint8)}
    state = torch.get_rng_state()
    first, second = task.eval_step(batch).loss, task.eval_step(batch).loss
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(task.train_step(batch).loss, task.train_step(batch).loss)


def test_pixels_come_back_from_the_models_range() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    scaled = to_model_range(pixels)
    assert (scaled.min(), scaled.max()) == (-1.0, 1.0)
    assert torch.equal(to_pixels(scaled), pixels)


def test_samples_depend_on_the_seed_only() -> None:
    task = _task()
    first = task.sample(5, seed=1, batch_size=5)
    assert first.shape == (5, 1, 8, 8)
    assert first.dtype == torch.uint8
    assert torch.equal(first, task.sample(5, seed=1))
    assert not torch.equal(first, task.sample(5, seed=2))
    assert task.sample(2, seed=1, steps=4).shape == (2, 1, 8, 8)


def test_features_tell_classes_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (400,), generator=generator)
    images = (torch.rand(400, 1, 4, 4, generator=generator) * 100).to(torch.uint8)
    images[labels == 1, :, :2] += 150
    features = ClassFeatures(images[:300], labels[:300])
    assert features.accuracy(images[300:], labels[300:]) > 0.95
    assert features(images).shape == (400, 64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("model.groups=7", "model.groups 7"),
        ("model.attention_level=2", "expected -1 to 1"),
        ("model.multipliers=[]", "model.multipliers is empty"),
    ],
)
def test_sizes_that_cannot_be_are_named(values: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(paper.Config, paper.__file__, overrides=[values])


def test_a_patch_that_does_not_divide_the_image_is_named() -> None:
    task = DiffusionTask(UNetConfig(8, [1], 1, -1, groups=4, patch_size=3), DiffusionConfig())
    _, context = compose(paper.Config, paper.__file__)
    with pytest.raises(ConfigError, match="8 x 8"):
        task.configure(DatasetInfo(input_shape=(1, 8, 8)), context)


def test_betas_that_do_not_grow_are_named() -> None:
    with pytest.raises(ConfigError, match=r"beta_start is 0\.5"):
        linear_betas(10, 0.5, 0.1)


# ---- the commands -------------------------------------------------------------------------


def test_training_evaluation_and_sampling_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSETS_DIR", str(tmp_path))
    quick = ["trainer.max_steps=4", "model.channels=8", "sampling.samples=16"]
    quick += ["diffusion.num_steps=10", "diffusion.beta_end=0.5", "trainer.loggers=[]"]
    paper.train(*compose(paper.Config, paper.__file__, overrides=quick))
    (run,) = (tmp_path / "outputs" / "ddpm").iterdir()
    assert (run / "plots" / "samples.png").stat().st_size > 1000
    config, context = load_run_config(paper.Config, run)
    context.checkpoint = "final"
    evaluate(config, context)
    trained = json.loads((run / "run.json").read_text())["metrics"]
    assert json.loads((run / "evaluation.json").read_text())["metrics"] == trained
    out = tmp_path / "new" / "grid.png"
    words = ["--run", str(run), "--out", str(out), "--count", "3", "--progress"]
    monkeypatch.setattr("sys.argv", ["sample", *words])
    sample.main()
    assert out.stat().st_size > 1000


def test_the_weights_that_are_kept_are_the_averaged_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSETS_DIR", str(tmp_path))
    quick = ["trainer.max_steps=4", "model.channels=8", "sampling.samples=2", "sampling.steps=1"]
    paper.train(*compose(paper.Config, paper.__file__, overrides=[*quick, "trainer.loggers=[]"]))
    (run,) = (tmp_path / "outputs" / "ddpm").iterdir()
    state = load_checkpoint(run / "checkpoints" / "last.pt")
    kept, average = load_file(run / "model.safetensors"), state["callbacks"]["EMA"]["shadow"]
    assert all(torch.equal(kept[name], average[name]) for name in average)
    assert not torch.equal(kept["model.last.weight"], state["model"]["model.last.weight"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.nope"], "x.nope is no name of a picture; expected one with .png"),
        (["--out", "x.png", "--count", "0"], "--count is 0, expected 1 or more\n"),
        (["--out", "x.png", "--seed", "-1"], "--seed is -1, expected 0 to 9223372036854775807\n"),
        (["--out", "x.png", "--steps", "0"], "--steps is 0, expected 1 or more\n"),
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
