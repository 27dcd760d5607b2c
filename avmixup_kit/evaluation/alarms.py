"""Signs of hidden gradients, after Athalye et al. (2018) and Carlini et al. (2019).

Soft labels, saturated logits and shattered gradients can make a gradient attack fail where an
adversarial example exists. Such robustness is not real, and it shows: attacks that ought to be
weaker succeed where PGD20 failed. Each alarm looks for one such sign, carries a number with its
limit, a figure and a sentence, and rings only when chance is ruled out:

* an alarm about images (an attack fools k of n that PGD20 left standing) rings when the lower end
  of Wilson's 98 % interval of k / n, a one-sided 99 % bound, lies above its limit;
* an alarm about two accuracies rings when the one-sided exact McNemar test has p < 0.01;
* an alarm about a mean rings when its one-sided 99 % bound lies beyond the limit.

``evidence`` has the limits and where they come from. With fifteen alarms at 1 % each, a model
that sits on every limit at once would ring one falsely in at most 15 % of evaluations.

Silence proves nothing: AutoAttack's verdict stands above that of any alarm.
"""

from collections.abc import Mapping

import torch
from torch import nn

from avmixup_kit.data.splits import Source, choose
from avmixup_kit.evaluation import attack_signs, gradient_signs
from avmixup_kit.evaluation.attack_signs import Bench
from avmixup_kit.evaluation.draws import averaged
from avmixup_kit.evaluation.evidence import Alarm
from avmixup_kit.evaluation.images import as_images
from avmixup_kit.evaluation.record import CLEAN, Evaluation


def alarms(
    result: Evaluation,
    model: nn.Module,
    images: Source,
    *,
    sources: Mapping[str, nn.Module] | None = None,
    count: int = 200,
    epsilon: float | None = None,
    batch_size: int = 256,
    silent: bool = False,
) -> list[Alarm]:
    """Return the signs of hidden gradients that ring, each with figure and sentence.

    What was evaluated is probed again with attacks chosen to disagree where robustness is not
    real, at the evaluation's radius, seed and number of draws, in balls of ``result.norm``; rows of
    AutoAttack and of transferred examples are read off the evaluation itself.

    Args:
        result, model, images: an evaluation and what was evaluated.
        sources: other models, whose adversarial examples are tried too.
        count: how many images are probed, the same for the same images and count.
        epsilon: radius; needed only where no attack was evaluated.
        batch_size: how many images are probed at once; changes nothing but speed and memory.
        silent: return those that are silent or could not be tried as well, in a fixed order.

    Raises:
        ValueError: the radius is missing, or model or images are not those that were evaluated.
    """
    images = as_images(model, images)
    epsilon = result.epsilon if epsilon is None else epsilon
    if epsilon is None:
        raise ValueError("epsilon is missing: no attack was evaluated, so the radius is unknown")
    if len(images) != result.n:
        raise ValueError(f"{len(images)} images were given, {result.n} were evaluated")
    index = torch.from_numpy(choose(images.labels.cpu().numpy(), min(count, len(images)), seed=0))
    probed = averaged(model, result.draws, result.seed)
    subset = images.subset(index)
    bench = Bench(probed, subset, epsilon, result.seed, batch_size, result.norm)
    now, was = bench.baseline.of(CLEAN), result.of(CLEAN)[index]
    # A random network answers anew each time, and differs where it is in two minds.
    if int((now != was).sum()) > (0 if result.draws is None else len(now) // 5):
        raise ValueError(
            "the model does not classify these images as it did when it was evaluated: it was "
            "trained on, or model or images are others; evaluate again"
        )
    every = [
        attack_signs.fgsm_above_clean(bench),
        attack_signs.pgd_above_fgsm(bench),
        attack_signs.one_step(bench),
        *attack_signs.other_attacks(bench),
        attack_signs.transfer(bench, result, sources),
        attack_signs.square(result),
        attack_signs.autoattack(result),
        attack_signs.radii(bench),
        gradient_signs.label_rises(bench),
        *gradient_signs.gradients(bench),
        gradient_signs.stationary(bench),
    ]
    return [alarm for alarm in every if silent or alarm.rings]
