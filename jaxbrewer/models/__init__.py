"""Encoders in Flax NNX that read and write Hugging Face directories, one module per family."""

from .bert import BertConfig as BertConfig
from .bert import BertForQuestionAnswering as BertForQuestionAnswering
from .bert import BertForSequenceClassification as BertForSequenceClassification
from .bert import BertForTokenClassification as BertForTokenClassification
from .bert import BertHead as BertHead
from .families import FAMILIES as FAMILIES
from .heads import TASKS as TASKS
from .heads import EncoderModel as EncoderModel
from .heads import cut_layers as cut_layers
from .huggingface import load as load
from .huggingface import load_bert as load_bert
from .huggingface import save as save
from .huggingface import save_bert as save_bert
