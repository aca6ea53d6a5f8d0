#include "launch/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <nlohmann/json.hpp>

namespace troupe {
namespace {

/// One JSON object a line: {"time", "level", "source", "message"}.
class JsonFormatter : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& line, spdlog::memory_buf_t& out) override {
    const auto since = line.time.time_since_epoch();
    const auto level = spdlog::level::to_string_view(line.level);
    const nlohmann::json object = {
        {"time", std::chrono::duration<double>(since).count()},
        {"level", std::string(level.data(), level.size())},
        {"source", std::string(line.logger_name.data(), line.logger_name.size())},
        {"message", std::string(line.payload.data(), line.payload.size())}};
    const std::string text =
        object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    out.append(text.data(), text.data() + text.size());
  }
  [[nodiscard]] std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

}  // namespace

std::unique_ptr<spdlog::logger> make_logger(const LogOptions& options, const std::string& source) {
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  auto logger = std::make_unique<spdlog::logger>(source, std::move(sink));
  logger->set_level(spdlog::level::from_str(options.level));
  logger->flush_on(spdlog::level::trace);
  if (options.format == "json") {
    logger->set_formatter(std::make_unique<JsonFormatter>());
  } else {
    logger->set_pattern("%H:%M:%S.%e %^%l%$ %n: %v");
  }
  return logger;
}

}  // namespace troupe
