"""Overrides of the packaged recipes that rows are made of."""

from __future__ import annotations

NO_GAN = ("losses.gan_generator=null", "losses.joint_critic=null", "losses.denoising.weight=1.0")
"""Distribution matching alone."""
NO_DM = ("losses.distribution_matching=null", "losses.joint_critic=null")
GAN_ONLY = (*NO_DM, "losses.gan_generator.weight=1.0", "losses.gan_critic.weight=1.0", "student.lr=2.0e-4")
"""The discriminator alone; there is no fake score. At the rate of the other rows it diverges."""
SMALL = "run.batch=64"
"""Half the batch of the recipe: at two minutes per run, more updates count for more."""
PAIRS = ("data.pairs.use=pairs", "data.pairs.path={pairs}")
REGRESSION = ("losses.regression.weight=0.25", "losses.regression.distance=l2", *PAIRS)
"""[DMD]'s regression; at 8 x 8 pixels the distance is L2, for LPIPS has nothing to look at."""
HEAVY = "losses.regression.weight=2.0"
"""A weight for L2; [DMD]'s own 0.25 is meant for LPIPS. One try, on classifier 1 and seed 100."""
FOUR_STEPS = ("student.times=[1.0,0.75,0.5,0.25]",)
TWO_STEPS = ("student.times=[1.0,0.5]",)
DMD = ("ttur=1", *NO_GAN, *REGRESSION)
"""The first paper."""
EVEN = ("student.times=[1.0,0.68,0.52,0.38]",)
"""Calls at sigma 20, 3, 1 and 0.3 of the digits' schedule."""
OWN = "critic.per_call=true"
"""A critic for each call of the student."""
