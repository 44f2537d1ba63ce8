"""Real models: BERT encoders in Flax NNX that read and write Hugging Face directories."""

from .bert import BertForQuestionAnswering as BertForQuestionAnswering
from .bert import BertForSequenceClassification as BertForSequenceClassification
from .bert import BertForTokenClassification as BertForTokenClassification
from .bert import BertHead as BertHead
from .bert import cut_layers as cut_layers
from .config import BertConfig as BertConfig
from .huggingface import load_bert as load_bert
from .huggingface import save_bert as save_bert
