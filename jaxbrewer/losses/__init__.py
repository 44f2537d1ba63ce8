"""Losses between student and teacher: student first, teacher second.

Each is a function of arrays that returns a scalar, the mean over the valid positions of the batch.
Its attribute ``sum_and_count`` returns the two parts of that mean (:class:`Mean`), which may be
added over micro-batches, devices or processes before they are divided; the objective does so.
A loss of your own needs no more than :func:`as_loss` over a function that returns a
:class:`Mean`, usually by :func:`masked_mean` of a loss per position.
"""

from ._attention import att_ce_loss as att_ce_loss
from ._attention import att_ce_mean_loss as att_ce_mean_loss
from ._attention import att_mse_loss as att_mse_loss
from ._attention import att_mse_sum_loss as att_mse_sum_loss
from ._chunk_sizes import Chunks as Chunks
from ._chunk_sizes import batch_in_parts as batch_in_parts
from ._chunk_sizes import choose_chunks as choose_chunks
from ._classwise import bce_loss as bce_loss
from ._classwise import binary_cross_entropy as binary_cross_entropy
from ._classwise import decoupled_kl_divergence as decoupled_kl_divergence
from ._classwise import dkd_loss as dkd_loss
from ._classwise import standardized_kl_divergence as standardized_kl_divergence
from ._classwise import standardized_kl_loss as standardized_kl_loss
from ._compare_in_chunks import Positions as Positions
from ._compare_in_chunks import compare_in_chunks as compare_in_chunks
from ._compare_in_chunks import map_positions as map_positions
from ._compare_in_chunks import whole_logits as whole_logits
from ._divergences import jensen_shannon_divergence as jensen_shannon_divergence
from ._divergences import jsd_loss as jsd_loss
from ._divergences import kl_divergence as kl_divergence
from ._divergences import kl_loss as kl_loss
from ._divergences import reverse_kl_divergence as reverse_kl_divergence
from ._divergences import reverse_kl_loss as reverse_kl_loss
from ._divergences import skew_kl_divergence as skew_kl_divergence
from ._divergences import skew_kl_loss as skew_kl_loss
from ._divergences import skew_reverse_kl_divergence as skew_reverse_kl_divergence
from ._divergences import skew_reverse_kl_loss as skew_reverse_kl_loss
from ._divergences import total_variation as total_variation
from ._divergences import tvd_loss as tvd_loss
from ._examples import crd_loss as crd_loss
from ._examples import rkd_loss as rkd_loss
from ._facts import add_fact as add_fact
from ._facts import collect_facts as collect_facts
from ._fused import fused_loss as fused_loss
from ._hidden import cos_loss as cos_loss
from ._hidden import hid_mse_loss as hid_mse_loss
from ._hidden import pkd_loss as pkd_loss
from ._label_loss import LabelLoss as LabelLoss
from ._label_loss import fused_cross_entropy as fused_cross_entropy
from ._label_loss import mean_of_labels as mean_of_labels
from ._logits import cross_entropy as cross_entropy
from ._logits import kd_ce_loss as kd_ce_loss
from ._logits import kd_mse_loss as kd_mse_loss
from ._logits import per_position as per_position
from ._logits import squared_error as squared_error
from ._logits_of import LogitsOf as LogitsOf
from ._minilm import minilm_attention_loss as minilm_attention_loss
from ._minilm import minilm_relation_loss as minilm_relation_loss
from ._reduction import Loss as Loss
from ._reduction import Mean as Mean
from ._reduction import add_means as add_means
from ._reduction import as_loss as as_loss
from ._reduction import loss_dtype as loss_dtype
from ._reduction import masked_mean as masked_mean
from ._reduction import selected as selected
from ._reduction import valid as valid
from ._relational import fsp_loss as fsp_loss
from ._relational import mmd_loss as mmd_loss
