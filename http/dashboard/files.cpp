#include "http/dashboard/files.h"

#include "http/dashboard_files.h"  // made by the build

#include <array>
#include <string>

namespace troupe {
namespace {

constexpr std::array<DashboardFile, 3> kFiles{{
    {"/dashboard", "text/html; charset=utf-8", kDashboardHtml},
    {"/dashboard/dashboard.css", "text/css; charset=utf-8", kDashboardCss},
    {"/dashboard/dashboard.js", "text/javascript; charset=utf-8", kDashboardJs},
}};

constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

}  // namespace

const DashboardFile* find_dashboard_file(std::string_view path) {
  for (const DashboardFile& file : kFiles) {
    if (path == file.path) return &file;
  }
  return nullptr;
}

HttpReply dashboard_reply(const DashboardFile& file) {
  HttpReply reply;
  reply.body = std::string(file.body);
  reply.content_type = std::string(file.content_type);
  reply.headers = {{"Content-Security-Policy", kPolicy},
                   {"X-Content-Type-Options", "nosniff"},
                   {"Referrer-Policy", "no-referrer"},
                   {"Cache-Control", "no-cache"}};
  return reply;
}

}  // namespace troupe
