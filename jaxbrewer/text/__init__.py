"""Turns text files into batches of token arrays; needs the extra ``jaxbrewer[text]``."""

from .labels import UNLABELLED as UNLABELLED
from .loader import TextLoader as TextLoader
from .model import TextModel as TextModel
from .model import load as load
from .read import Examples as Examples
from .read import read_examples as read_examples
from .tasks import TASKS as TASKS
from .tasks import Task as Task
from .tasks import task_of as task_of
from .tokenize import Encoded as Encoded
from .tokenize import Tokenizer as Tokenizer
