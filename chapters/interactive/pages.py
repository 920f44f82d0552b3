"""All interactive parts, in the order of the book."""

from chapters.interactive import Interactive
from chapters.interactive.attention import ATTENTION
from chapters.interactive.mask import MASK
from chapters.interactive.models import MODELS
from chapters.interactive.ppo import PPO
from chapters.interactive.reward import REWARD
from chapters.interactive.sampler import SAMPLER
from chapters.interactive.tokenizer import TOKENIZER
from chapters.interactive.training import TRAINING

PAGES: list[Interactive] = [TOKENIZER, ATTENTION, TRAINING, SAMPLER, MASK, REWARD, PPO, MODELS]
