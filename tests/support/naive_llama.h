#pragma once

#include "tests/support/tiny_model.h"

#include <cmath>
#include <string>
#include <vector>

namespace troupe::test {

/// Logits of every position, [tokens][vocab], computed the plain way in double: no cache, no
/// blocks, no ranks, straight from the tensors before they were written to a file.
inline std::vector<std::vector<double>> naive_logits(const TinyModel& m, const TinyTensors& tensors,
                                                     const std::vector<int32_t>& tokens,
                                                     int32_t window = 0) {
  using Vector = std::vector<double>;
  const auto get = [&](const std::string& name) -> const std::vector<float>& {
    return tensors.at(name).values;
  };
  const auto has = [&](const std::string& name) { return tensors.count(name) != 0; };
  const auto matvec = [&](const std::string& stem, const Vector& x) {
    const std::vector<float>& w = get(stem + ".weight");
    Vector out(w.size() / x.size());
    for (size_t r = 0; r < out.size(); ++r) {
      for (size_t c = 0; c < x.size(); ++c) out[r] += double{w[r * x.size() + c]} * x[c];
      if (has(stem + ".bias")) out[r] += double{get(stem + ".bias")[r]};
    }
    return out;
  };
  const auto norm = [&](double* x, size_t n, const std::vector<float>& weight) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += x[i] * x[i];
    const double scale = 1 / std::sqrt(sum / static_cast<double>(n) + double{m.rms_eps});
    for (size_t i = 0; i < n; ++i) x[i] *= scale * double{weight[i]};
  };
  const auto rope = [&](double* x, size_t position) {
    const auto half = static_cast<size_t>(m.head_dim / 2);
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) *
                           std::pow(double{m.rope_theta}, -2.0 * static_cast<double>(i) /
                                                              static_cast<double>(m.head_dim));
      const double a = x[i];
      const double b = x[i + half];
      x[i] = a * std::cos(angle) - b * std::sin(angle);
      x[i + half] = a * std::sin(angle) + b * std::cos(angle);
    }
  };
  const auto dim = static_cast<size_t>(m.head_dim);
  const auto n_heads = static_cast<size_t>(m.heads);
  const auto n_kv = static_cast<size_t>(m.kv_heads);
  const auto hidden = static_cast<size_t>(m.hidden);

  std::vector<Vector> stream;
  for (const int32_t token : tokens) {
    const auto row = get("embed_tokens.weight").begin() + int64_t{token} * m.hidden;
    stream.emplace_back(row, row + m.hidden);
  }
  for (int32_t l = 0; l < m.layers; ++l) {
    const std::string layer = "layers." + std::to_string(l) + ".";
    const std::string attention = layer + "self_attn.";
    std::vector<Vector> keys;
    std::vector<Vector> values;
    for (size_t t = 0; t < tokens.size(); ++t) {
      Vector x = stream[t];
      norm(x.data(), hidden, get(layer + "input_layernorm.weight"));
      Vector q = matvec(attention + "q_proj", x);
      keys.push_back(matvec(attention + "k_proj", x));
      values.push_back(matvec(attention + "v_proj", x));
      for (size_t h = 0; h < n_heads + n_kv; ++h) {
        const bool query = h < n_heads;
        double* head = query ? q.data() + h * dim : keys[t].data() + (h - n_heads) * dim;
        const std::string norm_name = attention + (query ? "q_norm.weight" : "k_norm.weight");
        if (has(norm_name)) norm(head, dim, get(norm_name));
        rope(head, t);
      }
      const size_t first = window > 0 && t + 1 > static_cast<size_t>(window)
                               ? t + 1 - static_cast<size_t>(window)
                               : 0;
      Vector mixed(n_heads * dim);
      for (size_t h = 0; h < n_heads; ++h) {
        const size_t kv = h * n_kv / n_heads;
        Vector p(t + 1);
        double total = 0;
        for (size_t s = first; s <= t; ++s) {
          for (size_t i = 0; i < dim; ++i) p[s] += q[h * dim + i] * keys[s][kv * dim + i];
          p[s] = std::exp(p[s] / std::sqrt(static_cast<double>(dim)));
          total += p[s];
        }
        for (size_t s = first; s <= t; ++s)
          for (size_t i = 0; i < dim; ++i)
            mixed[h * dim + i] += p[s] / total * values[s][kv * dim + i];
      }
      const Vector delta = matvec(attention + "o_proj", mixed);
      for (size_t i = 0; i < hidden; ++i) stream[t][i] += delta[i];
    }
    for (Vector& row : stream) {
      Vector x = row;
      norm(x.data(), hidden, get(layer + "post_attention_layernorm.weight"));
      Vector gate = matvec(layer + "mlp.gate_proj", x);
      const Vector up = matvec(layer + "mlp.up_proj", x);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const Vector delta = matvec(layer + "mlp.down_proj", gate);
      for (size_t i = 0; i < hidden; ++i) row[i] += delta[i];
    }
  }
  std::vector<Vector> logits;
  for (Vector& row : stream) {
    norm(row.data(), hidden, get("norm.weight"));
    logits.push_back(matvec(has("lm_head.weight") ? "lm_head" : "embed_tokens", row));
  }
  return logits;
}

}  // namespace troupe::test
