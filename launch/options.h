#pragma once

#include "gpu/base/dtype.h"
#include "launch/bench_options.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

namespace troupe {

/// How this process came to life and what the user set for every run. Read once, by
/// read_environment(): no other code of this project reads environment variables.
struct Environment {
  int32_t mpi_size = 0;     // of the mpirun job that started this process, 0 = not under mpirun
  int32_t mpi_rank = 0;     // in that job
  int32_t cores = 1;        // this process may run on
  std::string runtime_dir;  // XDG_RUNTIME_DIR, may be empty
  std::string temp_dir = "/tmp";
  std::string cache_dir;  // troupe's own below XDG_CACHE_HOME or ~/.cache, may be empty
  std::string api_key;    // TROUPE_API_KEY or OPENAI_API_KEY, for `chat`
};
[[nodiscard]] Environment read_environment();

struct LogOptions {
  std::string level = "info";   // trace, debug, info, warning, error
  std::string format = "text";  // text, json
};

/// What a rank needs to build its executor; `serve` hands these on to the ranks it starts. place()
/// replaces what is left automatic.
inline constexpr std::string_view kSimPrefix = "sim:";  // of modelled devices

struct RankShape {
  std::string device = "auto";   // auto, cpu, cuda, sim:NAME
  std::string sim_model;         // sim: the modelled shape, empty = MODEL's own
  int32_t threads = 0;           // of one CPU rank, 0 = cores / ranks
  int32_t kv_tokens = 0;         // 0 = automatic: 8192 on the CPU, what fits on a GPU
  std::string kv = "auto";       // auto; f16, f32 on the CPU; bf16, fp8 on a GPU
  std::string weights = "auto";  // auto; bf16, fp8 on a GPU
  bool dummy_weights = false;    // GPU: random weights, for measuring
  bool exact = false;
  int32_t max_rows = 0;         // running requests of a replica, 0 = 64 on the CPU, 256 on a GPU
  int32_t max_step_tokens = 0;  // of one step, 0 = 512 on the CPU, 2048 on a GPU
};

inline constexpr double kNoSlowdownLimit = 1000;

struct ServeCommand {
  std::string model;
  std::string host = "127.0.0.1";
  uint16_t port = 8000;  // 0 = any free one
  int32_t tp = 0;        // ranks of a replica, 0 = 2 on the CPU, every GPU
  int32_t dp = 1;        // replicas
  RankShape shape;
  int32_t max_queue = 256;  // waiting requests
  std::string served_name;  // empty = the model's own name
  std::string api_key_file;
  bool insecure = false;  // other hosts may connect without a key
  std::string hostfile;
  std::string rank_host;  // where ranks dial in; empty = loopback, with a hostfile this host's name
  std::string mpirun = "mpirun";
  bool in_process = false;
  std::string join_file;                 // empty = in the run directory
  int32_t drain_timeout = 30;            // seconds
  int32_t queue_timeout = 60;            // seconds
  int32_t step_timeout = 60;             // seconds until a replica that does not answer is given up
  double decode_slowdown = 0;            // see RouterLimits; 0 = automatic, kNoSlowdownLimit = none
  int32_t plan_ahead = -1;               // milliseconds; 0 = off, -1 = automatic
  std::string late_requests = "refuse";  // refuse, demote
  bool share_prefixes = false;           // between API keys
  int32_t http_threads = 1;              // of the gateway
  int32_t max_connections = 1024;
  std::string record;           // file for the router's log, empty = none
  int32_t record_limit = 1024;  // of that file, MB
};

struct RankCommand {
  std::string join;       // file, "-" = standard input of rank 0
  std::string model;      // empty = the path named by the join file
  int32_t threads = 0;    // 0 = as the join file says
  int32_t kv_tokens = 0;  // 0 = as the join file says
};

struct ChatCommand {
  std::string url = "http://127.0.0.1:8000";
  std::string model;  // empty = the server's first
  std::string system;
  std::string once;  // one prompt, one answer
  bool has_once = false;
  bool print_model = false;  // print the server's first model and leave
  int32_t max_tokens = 0;    // 0 = the server's default
  double temperature = -1;   // < 0 = the server's default
  int32_t wait = 0;          // seconds to wait for the server
  std::string api_key;
};

struct DoctorCommand {
  std::string model;  // optional
  uint16_t port = 8000;
  std::string mpirun = "mpirun";
};

struct SimulateCommand {
  std::string model = "llama-3-70b";  // built-in name, config.json or GGUF file
  std::string gpu = "h200";           // coefficient file built in
  std::string coefficients;           // file instead
  int32_t count = 8;                  // devices
  std::string tp = "1,2,4,8";         // each with count / tp replicas
  std::string workload = "random:1000/1000";
  int64_t requests = 0;  // 0 = 1,000, or those of the file
  double rate = 0;       // Poisson arrivals a second; 0 = all at once, or as the file says
  std::string weights = "fp8";
  std::string kv = "fp8";
  int32_t max_rows = 2048;
  int32_t max_step_tokens = 8192;
  int32_t max_tokens = 0;  // of requests that end by themselves; 0 = 4,096
  double decode_slowdown = kNoSlowdownLimit;
  int32_t ttft_target = 0;  // ms, of every request; 0 = none
  int32_t tpot_target = 0;
  uint64_t seed = 1;
  bool json = false;
  std::string svg;        // file
  std::string record;     // file for the router's log; one split only
  std::string fit;        // step table: print fitted coefficients instead
  std::string fit_terms;  // comma-separated, empty = what the table can tell
};

struct ReplayCommand {
  std::string log;
  int64_t from = 0;
  int64_t count = 0;     // decisions to print
  bool partial = false;  // of a log that was cut short
  std::string against;   // another build of this program, empty = none
};

struct Options {
  std::variant<ServeCommand, RankCommand, ChatCommand, DoctorCommand, SimulateCommand,
               ReplayCommand, BenchServeCommand>
      command;
  LogOptions log;
  Environment environment;
  std::string summary;  // every option of the command with its value, for the log
};

/// The command line asked for help or is wrong: print and leave.
struct EarlyExit {
  int code = 0;  // 0 for help and version, 2 for a bad option
  std::string out;
  std::string err;  // one sentence that says what to do
};

[[nodiscard]] std::variant<Options, EarlyExit> parse_options(int argc, const char* const* argv,
                                                             const Environment& environment);

/// Threads of one rank when `ranks` of them share `cores`: 0 means an even share, at least one.
[[nodiscard]] int32_t threads_per_rank(int32_t asked, int32_t cores, int32_t ranks);

}  // namespace troupe
