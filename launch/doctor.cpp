#include "gpu/executor.h"
#include "gpu/model/checkpoint.h"
#include "launch/commands.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace troupe {
namespace {

/// Prints one finding a line and counts what keeps `serve` from working.
class Report {
 public:
  void fact(const char* what, const std::string& text) { line("  ", what, text); }
  void good(const char* what, const std::string& text) { line("ok", what, text); }
  void bad(const char* what, const std::string& text) {
    line("!!", what, text);
    ++problems_;
  }
  [[nodiscard]] int problems() const { return problems_; }

 private:
  static void line(const char* mark, const char* what, const std::string& text) {
    std::printf("%s  %-14s %s\n", mark, what, text.c_str());
  }
  int problems_ = 0;
};

std::string mebibytes(int64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

/// A field of /proc/meminfo, bytes.
int64_t memory(const std::string& field) {
  std::ifstream file("/proc/meminfo");
  std::string name;
  int64_t kilobytes = 0;
  std::string rest;
  while (file >> name >> kilobytes && std::getline(file, rest)) {
    if (name == field + ":") return kilobytes << 10;
  }
  return 0;
}

std::string instruction_set() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni") != 0) return "AVX-512 VNNI";
  if (__builtin_cpu_supports("avx2") != 0) return "AVX2";
#endif
  return "no AVX2: the portable path, slow";
}

std::string first_line_of(const std::string& command) {
  std::string text;
  FILE* pipe = popen(command.c_str(), "re");
  if (pipe == nullptr) return text;
  char buffer[256];
  if (std::fgets(buffer, sizeof(buffer), pipe) != nullptr) text = buffer;
  while (std::fgets(buffer, sizeof(buffer), pipe) != nullptr) {
  }
  pclose(pipe);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

bool port_free(uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool bound = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return bound;
}

void check_mpirun(Report& report, const std::string& mpirun) {
  const bool plain = mpirun.find('\'') == std::string::npos;
  const std::string version =
      plain ? first_line_of("'" + mpirun + "' --version 2>/dev/null") : std::string();
  if (version.empty()) {
    report.bad("mpirun", "none; install openmpi-bin, or serve with --in-process");
  } else {
    report.good("mpirun", version);
  }
}

void check_model(Report& report, const std::string& path) {
  const auto opened = Checkpoint::open(path);
  if (!opened) return report.bad("model", opened.error().message);
  const ModelConfig& config = (*opened)->config();
  report.good("model", config.name + ": " + config.architecture + ", " +
                           std::to_string(config.n_layers) + " layers, hidden " +
                           std::to_string(config.hidden) + ", context " +
                           std::to_string(config.max_context));
  const int64_t token_bytes = int64_t{4} * config.n_layers * config.n_kv_heads * config.head_dim;
  const int64_t available = memory("MemAvailable");
  report.fact("KV", std::to_string(token_bytes) + " bytes a token (f16); --kv-tokens 8192 takes " +
                        mebibytes(8192 * token_bytes));
  if (8192 * token_bytes > available) {
    report.bad("fit", "8192 KV tokens do not fit into " + mebibytes(available) +
                          "; use fewer --kv-tokens");
  } else {
    report.good("fit", "memory for about " + std::to_string(available / token_bytes) +
                           " KV tokens, the weights aside");
  }
}

}  // namespace

int doctor(const DoctorCommand& command, const Options& options) {
  Report report;
  report.fact("cores", std::to_string(options.environment.cores));
  report.fact("CPU", instruction_set());
  const int64_t available = memory("MemAvailable");
  const std::string of_total = mebibytes(available) + " free of " + mebibytes(memory("MemTotal"));
  if (available < (int64_t{512} << 20)) {
    report.bad("memory", of_total + "; the default model with two ranks wants 512 MiB");
  } else {
    report.good("memory", of_total);
  }
  check_mpirun(report, command.mpirun);
  struct statvfs shm {};
  const int64_t shm_free =
      statvfs("/dev/shm", &shm) == 0 ? static_cast<int64_t>(shm.f_bavail * shm.f_frsize) : 0;
  if (shm_free < (int64_t{16} << 20)) {
    report.bad("/dev/shm",
               mebibytes(shm_free) + " free; two ranks want 16 MiB (docker: --shm-size)");
  } else {
    report.good("/dev/shm", mebibytes(shm_free) + " free");
  }
  const std::string driver = first_line_of("cat /proc/driver/nvidia/version 2>/dev/null");
  const int32_t gpus = gpu_count();
  if (driver.empty()) {
    report.fact("GPU", "no NVIDIA driver");
  } else if (gpus > 0) {
    report.good("GPU", std::to_string(gpus) + " usable; " + driver);
  } else {
    report.fact("GPU", driver + "; " + gpu_problem());
  }
  if (port_free(command.port)) {
    report.good("port", std::to_string(command.port) + " is free");
  } else {
    report.bad("port", std::to_string(command.port) + " is in use; serve with another --port");
  }
  if (!command.model.empty()) check_model(report, command.model);
  return report.problems() == 0 ? kExitOk : kExitFailed;
}

}  // namespace troupe
