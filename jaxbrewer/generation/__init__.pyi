from .prompts import Prompts as Prompts
from .sampler import Generated as Generated
from .sampler import Sampler as Sampler
from .sampler import Sampling as Sampling
from .sampler import generate as generate
