#include "launch/options.h"

#include "gpu/sim/coefficients.h"
#include "launch/option_checks.h"
#include "launch/simulate_options.h"

#include <CLI/CLI.hpp>

#include <sched.h>
#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace troupe {
namespace {

constexpr const char* kVersion = "troupe 0.1.0";

std::string variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): before any thread
  return value == nullptr ? std::string() : std::string(value);
}

int32_t number(const std::string& text) {
  return text.empty() ? 0 : static_cast<int32_t>(std::strtol(text.c_str(), nullptr, 10));
}

void add_log_options(CLI::App& app, LogOptions& log) {
  app.add_option("--log-level", log.level, "How much to log")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error"}))
      ->capture_default_str();
  app.add_option("--log-format", log.format, "Log lines for people or for machines")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
}

std::string model_exists(const std::string& path) {
  std::error_code error;
  if (std::filesystem::exists(path, error)) return {};
  return "there is no file or directory '" + path +
         "'; MODEL is a GGUF file or a Hugging Face directory";
}

std::string slowdown_known(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const bool number = !text.empty() && *end == '\0';
  if (number && (value == 0 || (value >= 1.01 && value <= kNoSlowdownLimit))) return {};
  return "must be 0 or from 1.01 to 1000";
}

std::string device_known(const std::string& device) {
  if (device == "auto" || device == "cpu" || device == "cuda") return {};
  std::string modelled;
  for (const std::string& name : builtin_devices()) {
    if (device == "sim:" + name) return {};
    modelled += " sim:" + name;
  }
  return "unknown device '" + device + "'; use auto, cpu, cuda or a modelled one:" + modelled;
}

void add_shape(CLI::App& app, RankShape& shape) {
  app.add_option("--device", shape.device,
                 "auto, cpu, cuda or sim:NAME (modelled: h200, h200-measured, h100, a100, cpu); "
                 "auto = GPUs when "
                 "there are any")
      ->check(CLI::Validator(device_known, "", ""))
      ->capture_default_str();
  app.add_option(
      "--sim-model", shape.sim_model,
      "With --device sim:NAME: the modelled shape, a built-in name or config.json; MODEL "
      "then only lends its tokenizer");
  app.add_option("--threads", shape.threads,
                 "Threads of one CPU rank; 0 = an even share of the cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--kv-tokens", shape.kv_tokens,
                 "Tokens the KV pool of a replica holds; 0 = 8192 on the CPU, what fits on a GPU")
      ->check(CLI::Range(0, 1 << 26))
      ->capture_default_str();
  app.add_option("--kv", shape.kv, "Element type of the KV pool; fp8 is e4m3")
      ->check(CLI::IsMember({"auto", "f16", "f32", "bf16", "fp8"}))
      ->capture_default_str();
  app.add_option(
         "--weights", shape.weights,
         "On a GPU: bf16, or fp8 (e4m3, quantised at load); the CPU keeps the file's format")
      ->check(CLI::IsMember({"auto", "bf16", "fp8"}))
      ->capture_default_str();
  app.add_flag("--dummy-weights", shape.dummy_weights,
               "On a GPU: random weights of the model's shape, for measuring");
  app.add_flag("--exact", shape.exact, "On the CPU: plain fp32 arithmetic, slow, the reference");
  app.add_option("--max-rows", shape.max_rows,
                 "Requests that run at a time on a replica; 0 = 64 on the CPU, 256 on a GPU")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app.add_option("--max-step-tokens", shape.max_step_tokens,
                 "Token budget of one step; 0 = 512 on the CPU, 2048 on a GPU")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
}

void add_serve(CLI::App& app, ServeCommand& serve) {
  app.add_option("MODEL", serve.model, "GGUF file or Hugging Face directory")
      ->required()
      ->check(CLI::Validator(model_exists, "", ""));
  app.add_option("--host", serve.host, "Address to listen on")->capture_default_str();
  app.add_option("--port", serve.port, "HTTP port; 0 = any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  app.add_option("--tp", serve.tp,
                 "Ranks of one replica (tensor parallelism); 0 = 2 on the CPU, every GPU")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  app.add_option("--dp", serve.dp, "Replicas")->check(CLI::Range(1, 64))->capture_default_str();
  add_shape(app, serve.shape);
  app.add_option("--max-queue", serve.max_queue, "Requests that may wait; more are refused (429)")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--queue-timeout", serve.queue_timeout, "Seconds a request may wait")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  app.add_option(
         "--plan-ahead-ms", serve.plan_ahead,
         "Time of decoding that is planned at once while nothing else is to be done: less "
         "work for the processors, tokens arrive in bursts of that length; 0 = off, -1 = 25 on "
         "the CPU, off elsewhere")
      ->check(CLI::Range(-1, 1000))
      ->capture_default_str();
  app.add_option(
         "--step-timeout", serve.step_timeout,
         "Seconds without an answer to a step until a replica is given up (or 20 times what "
         "the step is predicted to take)")
      ->check(CLI::Range(10, 86400))
      ->capture_default_str();
  app.add_option("--decode-slowdown", serve.decode_slowdown,
                 "Prompts may make steps with running streams so many times as long; 1000 = no "
                 "limit, 0 = 1.25 on a GPU, no limit on the CPU")
      ->check(CLI::Validator(slowdown_known, "", ""))
      ->capture_default_str();
  app.add_option("--late-requests", serve.late_requests,
                 "What becomes of a waiting request that cannot make its ttft_target_ms any more: "
                 "refuse, or demote (behind all others)")
      ->check(CLI::IsMember({"refuse", "demote"}))
      ->capture_default_str();
  app.add_flag("--share-prefixes", serve.share_prefixes,
               "Requests of different API keys use each other's cached prefixes (and can tell by "
               "time what the others asked)");
  app.add_option("--served-model-name", serve.served_name, "Name in the API; default: the model's");
  app.add_option("--api-key-file", serve.api_key_file,
                 "File with one accepted API key a line; 'KEY weight=2' gets twice the share")
      ->check(CLI::ExistingFile);
  app.add_flag("--insecure", serve.insecure,
               "Let other hosts connect without an API key (with a --host that is not loopback)");
  auto* hostfile = app.add_option("--hostfile", serve.hostfile, "Hosts for the ranks, for mpirun")
                       ->check(CLI::ExistingFile);
  app.add_option("--rank-host", serve.rank_host,
                 "Address of this machine that ranks dial; default: loopback, with --hostfile the "
                 "host name");
  app.add_option("--mpirun", serve.mpirun, "The mpirun to start ranks with")->capture_default_str();
  app.add_flag("--in-process", serve.in_process, "Ranks as threads of this process, no mpirun")
      ->excludes(hostfile);
  app.add_option("--join-file", serve.join_file,
                 "Where to write what `troupe rank --join` needs; default: in the run directory");
  app.add_option("--drain-timeout", serve.drain_timeout,
                 "Seconds that running requests get after SIGTERM")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  app.add_option("--record", serve.record, "Write the router's log to this file, for replay");
  app.add_option("--record-limit", serve.record_limit, "MB that the log may take")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--http-threads", serve.http_threads, "Threads of the HTTP server")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--max-connections", serve.max_connections, "Open HTTP connections")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
}

void add_rank(CLI::App& app, RankCommand& rank) {
  app.add_option("--join", rank.join, "Join file of the service; - = standard input of rank 0")
      ->required();
  app.add_option("--model", rank.model, "The model's path here; default: as the join file says");
  app.add_option("--threads", rank.threads, "Threads of this rank; 0 = as the join file says")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--kv-tokens", rank.kv_tokens, "KV pool, tokens; 0 = as the join file says")
      ->check(CLI::Range(0, 1 << 26))
      ->capture_default_str();
}

void add_chat(CLI::App& app, ChatCommand& chat) {
  app.add_option("URL", chat.url, "The server")->capture_default_str();
  app.add_option("--model", chat.model, "Model name; default: the server's first");
  app.add_option("--system", chat.system, "System prompt");
  app.add_option("--once", chat.once, "Ask this, print the answer, leave");
  app.add_flag("--print-model", chat.print_model, "Print the server's first model and leave");
  app.add_option("--max-tokens", chat.max_tokens, "Longest answer; 0 = what the context leaves")
      ->check(CLI::Range(0, 1 << 26))
      ->capture_default_str();
  app.add_option("--temperature", chat.temperature, "Sampling temperature")
      ->check(CLI::Validator(finite, "", ""))
      ->check(CLI::Range(0.0, 2.0));
  app.add_option("--wait", chat.wait, "Seconds to wait until the server is ready")
      ->check(CLI::Range(0, 3600))
      ->capture_default_str();
  app.add_option("--api-key", chat.api_key, "API key; default: TROUPE_API_KEY, OPENAI_API_KEY");
}

void add_doctor(CLI::App& app, DoctorCommand& doctor) {
  app.add_option("MODEL", doctor.model, "A model to judge")
      ->check(CLI::Validator(model_exists, "", ""));
  app.add_option("--port", doctor.port, "The port `serve` is to listen on")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  app.add_option("--mpirun", doctor.mpirun, "The mpirun to look for")->capture_default_str();
}

/// "troupe bench serve": the subcommands that were named, as far as parsing got.
std::string path_to(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return app.get_name() + (chosen.empty() ? "" : " " + path_to(*chosen.front()));
}

}  // namespace

Environment read_environment() {
  Environment environment;
  environment.mpi_size = number(variable("OMPI_COMM_WORLD_SIZE"));
  environment.mpi_rank = number(variable("OMPI_COMM_WORLD_RANK"));
  environment.runtime_dir = variable("XDG_RUNTIME_DIR");
  if (const std::string temp = variable("TMPDIR"); !temp.empty()) environment.temp_dir = temp;
  std::string cache = variable("XDG_CACHE_HOME");
  if (cache.empty() && !variable("HOME").empty()) cache = variable("HOME") + "/.cache";
  if (!cache.empty()) environment.cache_dir = cache + "/troupe";
  environment.api_key = variable("TROUPE_API_KEY");
  if (environment.api_key.empty()) environment.api_key = variable("OPENAI_API_KEY");
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) {
    environment.cores = std::max(1, CPU_COUNT(&cores));
  }
  return environment;
}

int32_t threads_per_rank(int32_t asked, int32_t cores, int32_t ranks) {
  return asked > 0 ? asked : std::max(1, cores / std::max(1, ranks));
}

std::variant<Options, EarlyExit> parse_options(int argc, const char* const* argv,
                                               const Environment& environment) {
  CLI::App app{"Troupe: an LLM server. Start with: troupe serve MODEL"};
  app.name("troupe");
  app.set_version_flag("--version", kVersion);
  app.require_subcommand(1);
  LogOptions log;
  ServeCommand serve;
  RankCommand rank;
  ChatCommand chat;
  DoctorCommand doctor;
  SimulateCommand simulate;
  ReplayCommand replay;
  auto* serve_app = app.add_subcommand("serve", "Serve a model over HTTP (OpenAI-compatible)");
  auto* rank_app = app.add_subcommand("rank", "Be a rank of a running service; under mpirun");
  auto* chat_app = app.add_subcommand("chat", "Chat with a server in the terminal");
  auto* doctor_app = app.add_subcommand("doctor", "Say what this machine has, lacks and can hold");
  auto* simulate_app =
      app.add_subcommand("simulate", "Predict throughput and latency on devices you need not have");
  auto* replay_app = app.add_subcommand("replay", "Decide again what a recorded router decided");
  BenchServeCommand bench_serve;
  auto* bench_app = app.add_subcommand("bench", "Measure")->require_subcommand(1);
  auto* bench_serve_app = bench_app->add_subcommand("serve", "Put load on any OpenAI server");
  add_serve(*serve_app, serve);
  add_simulate(*simulate_app, simulate);
  add_replay(*replay_app, replay);
  add_rank(*rank_app, rank);
  add_chat(*chat_app, chat);
  add_doctor(*doctor_app, doctor);
  add_bench_serve(*bench_serve_app, bench_serve);
  add_log_options(*serve_app, log);
  add_log_options(*rank_app, log);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    std::ostringstream out;
    app.exit(success, out, out);
    return EarlyExit{0, out.str(), {}};
  } catch (const CLI::ParseError& error) {
    const auto chosen = app.get_subcommands();
    if (chosen.empty() && argc > 1 && argv[1][0] != '-') {
      return EarlyExit{
          2,
          {},
          "unknown command '" + std::string(argv[1]) +
              "'; use serve, rank, chat, doctor, bench, simulate or replay\nSee: troupe --help"};
    }
    return EarlyExit{2, {}, std::string(error.what()) + "\nSee: " + path_to(app) + " --help"};
  }

  Options options;
  options.log = log;
  options.environment = environment;
  const CLI::App* chosen = app.get_subcommands().front();
  options.summary = chosen->config_to_str(true, false);
  std::replace(options.summary.begin(), options.summary.end(), '\n', ' ');
  if (chosen == serve_app) {
    options.command = serve;
  } else if (chosen == rank_app) {
    options.command = rank;
  } else if (chosen == chat_app) {
    chat.has_once = chat_app->count("--once") > 0;
    if (chat.api_key.empty()) chat.api_key = environment.api_key;
    options.command = chat;
    options.summary.clear();  // holds a secret, and chat does not log
  } else if (chosen == simulate_app) {
    options.command = simulate;
  } else if (chosen == replay_app) {
    options.command = replay;
  } else if (chosen == doctor_app) {
    options.command = doctor;
  } else {
    if (const auto problem = conflict(bench_serve)) return EarlyExit{2, {}, *problem};
    if (bench_serve.api_key.empty()) bench_serve.api_key = environment.api_key;
    options.command = bench_serve;
    options.summary.clear();  // holds a secret, and bench does not log
  }
  return options;
}

}  // namespace troupe
