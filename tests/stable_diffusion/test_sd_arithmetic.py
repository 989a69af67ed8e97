"""x_hat, guidance and the few-step sampler against the arithmetic of diffusers' own schedulers."""

import diffusers
import pytest
import torch
from dmd2_plugins.stable_diffusion.scheduler import Dpmpp, Euler, Unipc

from dmd2cli.core.denoiser import bind, guided
from dmd2cli.core.noise import Discrete, RectifiedFlow
from dmd2cli.errors import UserError
from dmd2cli.samplers.ddim import Ddim
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.testing import check_sampler

TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
PROMPTS = ["a llama", "a handwritten three"]
TIMES = {999: 1.0, 749: 0.75, 499: 0.5, 249: 0.25}
close = torch.testing.assert_close


def noise(seed=0):
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def predicted(pipe, x_t, index, cond):
    """The network of a pipeline, called as the pipeline does."""
    added = {"text_embeds": cond["pooled"], "time_ids": cond["time_ids"]} if "pooled" in cond else None
    with torch.no_grad():
        return pipe.unet(x_t, torch.tensor(index), cond["text"], added_cond_kwargs=added).sample


def ddim(pipe):
    """A scheduler with the configuration of the pipeline that says what x_hat it has."""
    config = {key: pipe.scheduler.config[key] for key in ("prediction_type",)}
    zero = bool(pipe.scheduler.config.get("rescale_betas_zero_snr"))
    found = diffusers.DDIMScheduler(**TABLE, **config, clip_sample=False, rescale_betas_zero_snr=zero)
    found.set_timesteps(1000)
    return found


@pytest.mark.parametrize("name, first", [("sd15", 999), ("sd15-v", 998), ("sdxl", 999), ("sdxl-v", 998)])
@pytest.mark.parametrize("index", [None, 249, 3])
def test_x_hat_is_that_of_the_scheduler(name, first, index, teacher, pipe):
    """At 999 a scheduler with zero terminal SNR divides by 0; see the next test."""
    index = first if index is None else index
    source, loaded, x_t = teacher(name), pipe(name), noise()
    cond, _ = source.encode(PROMPTS)
    wanted = ddim(loaded).step(predicted(loaded, x_t, index, cond), index, x_t).pred_original_sample
    with torch.no_grad():
        found = source.denoiser(x_t, torch.full((2,), (index + 1) / 1000), cond)
    close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["sd15-v", "sdxl-v"])
def test_x_hat_of_pure_noise_is_minus_v(name, teacher, pipe):
    source, x_t = teacher(name), noise()
    cond, _ = source.encode(PROMPTS)
    with torch.no_grad():
        found = source.denoiser(x_t, torch.ones(2), cond)
    close(found, -predicted(pipe(name), x_t, 999, cond), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["sd15", "sd15-v", "sdxl", "sdxl-v"])
def test_guidance_is_that_of_the_pipelines(name, teacher, pipe):
    """eps_u + s (eps_c - eps_u) and then x_hat, as the pipelines have it, is guidance of x_hat."""
    source, loaded, x_t, scale = teacher(name), pipe(name), noise(), 7.5
    cond, null = source.encode(PROMPTS)
    without, with_text = (predicted(loaded, x_t, 499, c) for c in (null, cond))
    wanted = ddim(loaded).step(without + scale * (with_text - without), 499, x_t).pred_original_sample
    with torch.no_grad():
        found = guided(source.denoiser, scale, cond, null)(x_t, torch.full((2,), 0.5))
    close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, source.denoiser(x_t, torch.full((2,), 0.5), cond), atol=1e-2)


def test_half_precision_weights_leave_x_hat_in_float64_scalars(teacher):
    """The conversion multiplies the network's own error by 14.6 at 999, and adds none."""
    source, x_t, t = teacher("sd15"), noise(), torch.ones(2)
    cond, _ = source.encode(PROMPTS)
    net = source.denoiser
    net.to(torch.bfloat16)
    with torch.no_grad():
        raw = net.backbone.decode(net.backbone.encode(x_t, torch.tensor([999.0, 999]), cond))
        found = net(x_t, t, cond)
    bar = Discrete.scaled_linear().alphas_cumprod[-1]
    wanted = (x_t.double() - (1 - bar).sqrt() * raw.double()) / bar.sqrt()
    assert raw.dtype == torch.bfloat16 and found.dtype == torch.float32
    close(found, wanted.float(), rtol=1e-6, atol=1e-6)


class Stream:
    """The noise that a torch generator gives, call by call."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, name, like):
        return torch.randn(like.shape, generator=self.generator)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_four_steps_are_those_of_the_lcm_scheduler(name, teacher, pipe):
    source, loaded, x_t = teacher(name), pipe(name), noise()
    cond, _ = source.encode(PROMPTS)
    scheduler = diffusers.LCMScheduler(**TABLE, original_inference_steps=4)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == list(TIMES)
    generator, wanted = torch.Generator().manual_seed(5), x_t
    for index in scheduler.timesteps:
        eps = predicted(loaded, wanted, int(index), cond)
        wanted = scheduler.step(eps, index, wanted, generator=generator).prev_sample
    with torch.no_grad():
        sampler = FewStep(tuple(TIMES.values()))
        found = sampler(bind(source.denoiser, cond), source.schedule, x_t, Stream(5))
    close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


SAMPLERS = [(Euler, "EulerDiscrete"), (Dpmpp, "DPMSolverMultistep"), (Unipc, "UniPCMultistep")]


@pytest.mark.parametrize("name, scale", [("sd15", 1.0), ("sdxl", 7.5), ("sd15-v", 3.0), ("sdxl-v", 1.0)])
@pytest.mark.parametrize("sampler, kind", SAMPLERS)
def test_samplers_are_the_schedulers_of_diffusers(name, scale, sampler, kind, teacher, pipe):
    """A whole pipeline's loop with the scheduler's own handling of what the network predicts."""
    source, loaded, x_t = teacher(name), pipe(name), noise()
    cond, null = source.encode(PROMPTS)
    config = {"prediction_type": loaded.scheduler.config["prediction_type"], "timestep_spacing": "trailing"}
    config["rescale_betas_zero_snr"] = name.endswith("-v")
    scheduler = getattr(diffusers, f"{kind}Scheduler")(**TABLE, **config)
    scheduler.set_timesteps(7)
    wanted = x_t * scheduler.init_noise_sigma
    for index in scheduler.timesteps:
        seen = scheduler.scale_model_input(wanted, index)
        without, with_text = (predicted(loaded, seen, int(index), c) for c in (null, cond))
        wanted = scheduler.step(without + scale * (with_text - without), index, wanted).prev_sample
    with torch.no_grad():
        found = sampler(7)(guided(source.denoiser, scale, cond, null), source.schedule, x_t, Stream(0))
    close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("sampler", [Euler, Dpmpp, Unipc])
@pytest.mark.parametrize("steps", [2, 7, 50])
def test_samplers_keep_the_rules(sampler, steps):
    check_sampler(sampler(steps))
    assert sampler(steps).nfe == steps and sampler(steps).deterministic


def test_euler_is_ddim_on_the_same_times():
    table, x = Discrete.scaled_linear(), noise()
    arguments = (lambda x_t, t: torch.tanh(x_t) * t.view(-1, 1, 1, 1), table, x, Stream(0))
    close(Euler(20)(*arguments), Ddim(20)(*arguments), rtol=1e-4, atol=1e-4)


def test_samplers_of_tables_refuse_other_schedules():
    for sampler, name in ((Euler(4), "euler"), (Dpmpp(4), "dpmpp"), (Unipc(4), "unipc")):
        with pytest.raises(UserError, match=f"{name} needs a table of timesteps"):
            sampler(lambda x_t, t: x_t, RectifiedFlow(), noise(), Stream(0))


@pytest.mark.parametrize("name", ["sd3", "pixart", "flux"])
def test_transformers_draw_what_their_pipelines_draw(name, teacher, pipe):
    """Two steps of the pipeline itself, from its own noise, under guidance: latents equal."""
    source, loaded, x = teacher(name), pipe(name), noise()
    loaded.set_progress_bar_config(disable=True)
    options = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent", "max_sequence_length": 9}
    if name == "pixart":
        loaded.scheduler = diffusers.DDIMScheduler.from_config(
            loaded.scheduler.config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
        )
        options |= {"use_resolution_binning": False}
    latents = loaded._pack_latents(x, 2, 4, 8, 8) if name == "flux" else x
    scale = 3.5 if name == "flux" else 4.0                       # flux embeds it
    wanted = loaded(PROMPTS, latents=latents, guidance_scale=scale, **options).images
    if name == "flux":
        wanted = loaded._unpack_latents(wanted, 64, 64, 8)
    cond, null = source.encode(PROMPTS)
    with torch.no_grad():
        denoise = guided(source.denoiser, 1.0 if name == "flux" else scale, cond, null)
        found = Ddim(2)(denoise, grid(source, loaded, name), x, Stream(0))
    close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def grid(source, loaded, name):
    """The teacher's schedule with the sampling grid of the pipeline."""
    if name == "pixart":
        return source.schedule
    sigmas = loaded.scheduler.sigmas[:-1].double()

    class Grid(RectifiedFlow):
        def clock(self, steps):
            return self.time(sigmas / (1 - sigmas))

    return Grid(source.schedule.shift)
