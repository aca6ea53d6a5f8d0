#include "gpu/device/host_memory.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <limits>
#include <string>

namespace troupe {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

/// The number in a one-line file, or kUnknown ("max", absent).
int64_t read_number(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : kUnknown;
}

int64_t kernel_available() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  std::string unit;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(file, unit);
  }
  return kUnknown;
}

/// Control group v2 as seen from inside a container. Page cache counts as used there although it
/// can be dropped, so inactive file pages are given back.
int64_t group_available() {
  const int64_t limit = read_number("/sys/fs/cgroup/memory.max");
  const int64_t used = read_number("/sys/fs/cgroup/memory.current");
  if (limit == kUnknown || used == kUnknown) return kUnknown;
  int64_t cache = 0;
  std::ifstream file("/sys/fs/cgroup/memory.stat");
  std::string key;
  int64_t value = 0;
  while (file >> key >> value)
    if (key == "inactive_file") cache = value;
  return std::max<int64_t>(0, limit - used + cache);
}

}  // namespace

int64_t available_host_memory() { return std::min(kernel_available(), group_available()); }

uint64_t host_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  std::getline(file, text);
  return std::hash<std::string>{}(text);
}

}  // namespace troupe
