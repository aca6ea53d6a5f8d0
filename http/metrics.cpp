#include "http/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <limits>
#include <utility>
#include <vector>

namespace troupe {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

/// Collects families; every sample carries the model's name, as vLLM's do.
class Families {
 public:
  explicit Families(const ModelInfo& model) : model_(model.id) {}

  template <class Value>
  void gauge(const char* name, const char* help, Value value) {
    ClientMetric& metric = sample(family(name, help, MetricType::Gauge));
    metric.gauge.value = static_cast<double>(value);
  }

  template <class Value>
  void counter(const char* name, const char* help, Value value) {
    ClientMetric& metric = sample(family(name, help, MetricType::Counter));
    metric.counter.value = static_cast<double>(value);
  }

  /// One counter family with a label of several values.
  void counters(const char* name, const char* help, const char* label,
                const std::vector<std::pair<const char*, uint64_t>>& values) {
    MetricFamily& target = family(name, help, MetricType::Counter);
    for (const auto& [key, value] : values) {
      ClientMetric& metric = sample(target);
      metric.label.push_back({label, key});
      metric.counter.value = static_cast<double>(value);
    }
  }

  void histogram(const char* name, const char* help, const Histogram& h) {
    ClientMetric& metric = sample(family(name, help, MetricType::Histogram));
    uint64_t cumulative = 0;
    for (size_t i = 0; i < h.counts.size(); ++i) {
      cumulative += h.counts[i];
      const double bound =
          i < h.bounds.size() ? h.bounds[i] : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back({cumulative, bound});
    }
    metric.histogram.sample_count = cumulative;
    metric.histogram.sample_sum = h.sum;
  }

  [[nodiscard]] std::string text() const {
    return prometheus::TextSerializer().Serialize(families_);
  }

 private:
  MetricFamily& family(const char* name, const char* help, MetricType type) {
    MetricFamily& f = families_.emplace_back();
    f.name = name;
    f.help = help;
    f.type = type;
    return f;
  }

  ClientMetric& sample(MetricFamily& target) {
    ClientMetric& metric = target.metric.emplace_back();
    metric.label.push_back({"model_name", model_});
    return metric;
  }

  std::string model_;
  std::vector<MetricFamily> families_;
};

double share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

void add_engine(Families& f, const EngineStats& s) {
  f.gauge("troupe_ready", "1 if requests are served.", s.ready && !s.draining ? 1 : 0);
  f.gauge("troupe_replicas_ready", "Replicas that serve.", s.replicas_ready);
  f.gauge("troupe_requests_running", "Requests with a row on a replica.", s.running);
  f.gauge("troupe_requests_queued", "Requests not admitted yet.", s.queued);
  f.gauge("troupe_requests_paused", "Requests paused for want of slots.", s.paused);
  f.gauge("troupe_kv_slots", "Token slots of all replicas.", s.slots_total);
  f.gauge("troupe_kv_slots_used", "Slots that hold tokens of live requests.", s.slots_used);
  f.gauge("troupe_kv_slots_cached", "Slots that hold reusable prefixes.", s.slots_cached);
  f.counter("troupe_requests_accepted_total", "Requests accepted.", s.requests_accepted);
  f.counter("troupe_requests_rejected_total", "Requests refused.", s.requests_rejected);
  f.counters("troupe_requests_finished_total", "Requests by how they ended.", "reason",
             {{"stop", s.finished_stop},
              {"length", s.finished_length},
              {"cancelled", s.finished_cancelled},
              {"error", s.finished_error}});
  f.counter("troupe_prompt_tokens_total", "Prompt tokens taken in.", s.prompt_tokens);
  f.counter("troupe_cached_prompt_tokens_total", "Prompt tokens not computed again.",
            s.cached_prompt_tokens);
  f.counter("troupe_output_tokens_total", "Tokens generated.", s.output_tokens);
  f.counter("troupe_pauses_total", "Pauses for want of slots.", s.pauses);
  f.counter("troupe_steps_total", "Steps run.", s.steps);
  f.counter("troupe_stale_messages_total", "Messages of an old epoch, dropped.", s.stale_messages);
  f.counter("troupe_replicas_lost_total", "Replicas that died or froze.", s.replicas_lost);
  f.counter("troupe_device_busy_seconds_total", "Time in steps, rank 0 of each replica.",
            static_cast<double>(s.device_busy_us) * 1e-6);
  f.counter("troupe_device_idle_seconds_total", "Time between steps, rank 0 of each replica.",
            static_cast<double>(s.device_idle_us) * 1e-6);
  f.histogram("troupe_time_to_first_token_seconds", "From submit to the first token.", s.ttft_s);
  f.histogram("troupe_inter_token_seconds", "Between tokens of one request.", s.inter_token_s);
  f.histogram("troupe_request_seconds", "From submit to the end.", s.e2e_s);
  f.histogram("troupe_queue_seconds", "From submit to admission.", s.queue_s);
  f.histogram("troupe_prompt_length_tokens", "Prompt lengths.", s.prompt_len);
  f.histogram("troupe_output_length_tokens", "Output lengths.", s.output_len);
  f.histogram("troupe_step_tokens", "Tokens computed per step.", s.step_tokens);
}

void add_http(Families& f, const HttpCounters& http) {
  f.gauge("troupe_http_connections", "Open connections.", http.connections.load());
  f.gauge("troupe_http_requests", "Requests being answered.", http.requests.load());
  f.counter("troupe_http_connections_refused_total", "Connections over the limit.",
            http.connections_refused.load());
  f.counter("troupe_http_disconnects_total", "Clients that left while we generated.",
            http.disconnects.load());
  f.counter("troupe_http_slow_readers_total", "Streams given up because nobody read them.",
            http.slow_readers.load());
  f.counters("troupe_http_responses_total", "Answers by class of status.", "class",
             {{"2xx", http.answers[2].load()},
              {"4xx", http.answers[4].load()},
              {"5xx", http.answers[5].load()}});
}

void add_vllm_names(Families& f, const EngineStats& s) {
  f.gauge("vllm:num_requests_running", "Same as troupe_requests_running.", s.running);
  f.gauge("vllm:num_requests_waiting", "Requests queued or paused.", s.queued + s.paused);
  f.gauge("vllm:kv_cache_usage_perc", "Share of slots used by live requests, 0 to 1.",
          share(s.slots_used, s.slots_total));
  f.counter("vllm:prompt_tokens_total", "Same as troupe_prompt_tokens_total.", s.prompt_tokens);
  f.counter("vllm:generation_tokens_total", "Same as troupe_output_tokens_total.", s.output_tokens);
  f.counter("vllm:num_preemptions_total", "Same as troupe_pauses_total.", s.pauses);
  f.counters(
      "vllm:request_success_total", "Requests by finish reason.", "finished_reason",
      {{"stop", s.finished_stop}, {"length", s.finished_length}, {"abort", s.finished_cancelled}});
  f.histogram("vllm:time_to_first_token_seconds", "From submit to the first token.", s.ttft_s);
  f.histogram("vllm:inter_token_latency_seconds", "Between tokens of one request.",
              s.inter_token_s);
  f.histogram("vllm:e2e_request_latency_seconds", "From submit to the end.", s.e2e_s);
  f.histogram("vllm:request_queue_time_seconds", "From submit to admission.", s.queue_s);
}

}  // namespace

std::string metrics_text(const EngineStats& stats, const ModelInfo& model,
                         const HttpCounters& http) {
  Families families(model);
  add_engine(families, stats);
  add_http(families, http);
  add_vllm_names(families, stats);
  return families.text();
}

}  // namespace troupe
