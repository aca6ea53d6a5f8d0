#include "gpu/model/config.h"

#include <cmath>

namespace troupe {
namespace {

Status bad(const std::string& field, const std::string& what) {
  return fail(ErrorCode::kBadModel, field + " " + what + ": the model's configuration is damaged",
              field);
}

}  // namespace

Status check_config(const ModelConfig& c) {
  // Bounds a few times above any published model, so that every product of two fits an int64 and
  // the product with an element size too.
  struct Bound {
    const char* field;
    int32_t value;
    int32_t low;
    int32_t high;
  };
  const Bound bounds[] = {
      {"n_layers", c.n_layers, 1, 1 << 12},
      {"hidden", c.hidden, 1, 1 << 20},
      {"n_heads", c.n_heads, 1, 1 << 14},
      {"n_kv_heads", c.n_kv_heads, 1, 1 << 14},
      {"head_dim", c.head_dim, 2, 1 << 12},
      {"ffn", c.ffn, 1, 1 << 24},
      {"vocab", c.vocab, 1, 1 << 24},
      {"max_context", c.max_context, 1, 1 << 28},
      {"sliding_window", c.sliding_window, 0, 1 << 28},
  };
  for (const Bound& b : bounds) {
    if (b.value < b.low || b.value > b.high) {
      return bad(b.field, "is " + std::to_string(b.value) + ", not from " + std::to_string(b.low) +
                              " to " + std::to_string(b.high));
    }
  }
  if (c.n_heads % c.n_kv_heads != 0) {
    return bad("n_kv_heads", "is " + std::to_string(c.n_kv_heads) + ", which does not divide " +
                                 std::to_string(c.n_heads) + " heads");
  }
  if (!(c.rms_eps > 0.0F && c.rms_eps < 1.0F)) return bad("rms_eps", "is not between 0 and 1");
  const RopeConfig& rope = c.rope;
  if (rope.rotary_dim <= 0 || rope.rotary_dim > c.head_dim || rope.rotary_dim % 2 != 0) {
    return bad("rope dimension", "is " + std::to_string(rope.rotary_dim) +
                                     ", not an even number up to the head size " +
                                     std::to_string(c.head_dim));
  }
  if (rope.inverse_frequency.size() != static_cast<size_t>(rope.rotary_dim / 2)) {
    return bad("rope frequencies", "are not half as many as rope dimensions");
  }
  for (const float f : rope.inverse_frequency) {
    if (!std::isfinite(f) || f <= 0.0F) return bad("rope frequencies", "are not all positive");
  }
  if (!std::isfinite(rope.magnitude) || rope.magnitude <= 0.0F) {
    return bad("rope magnitude", "is not positive");
  }
  for (const int32_t token : c.stop_tokens) {
    if (token < 0 || token >= c.vocab) {
      return bad("stop_tokens", "has " + std::to_string(token) + ", outside the vocabulary of " +
                                    std::to_string(c.vocab));
    }
  }
  return ok_status();
}

}  // namespace troupe
