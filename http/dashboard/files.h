#pragma once

#include "http/message.h"

#include <string_view>

namespace troupe {

/// A file of the dashboard, which the build puts into the program. They hold no data.
struct DashboardFile {
  std::string_view path;
  std::string_view content_type;
  std::string_view body;
};

/// Null for other paths.
[[nodiscard]] const DashboardFile* find_dashboard_file(std::string_view path);

/// With the headers that keep the page to its own files and out of frames.
[[nodiscard]] HttpReply dashboard_reply(const DashboardFile& file);

}  // namespace troupe
