#include "launch/commands.h"

#include <curl/curl.h>
#include <nlohmann/json.hpp>

#include <unistd.h>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

namespace troupe {
namespace {

using nlohmann::json;

std::string text_at(const json& object, const char* name) {
  if (!object.is_object()) return {};
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::string error_text(const std::string& body) {
  const json object = json::parse(body, nullptr, false);
  if (object.is_object() && object.contains("error")) {
    const std::string message = text_at(object["error"], "message");
    if (!message.empty()) return message;
  }
  return body.substr(0, 300);
}

/// One HTTP exchange after another with the server, over libcurl.
class Client {
 public:
  explicit Client(const ChatCommand& command) : url_(command.url), curl_(curl_easy_init()) {
    while (url_.ends_with('/')) url_.pop_back();
    if (url_.ends_with("/v1")) url_.resize(url_.size() - 3);
    if (!command.api_key.empty()) authorization_ = "Authorization: Bearer " + command.api_key;
  }
  ~Client() { curl_easy_cleanup(curl_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  using Receive = std::function<void(std::string_view)>;

  /// Returns the status, 0 when there was no answer; then error() says why.
  long exchange(const std::string& path, const std::string* body, const Receive& receive) {
    curl_easy_reset(curl_);
    curl_slist* headers = nullptr;
    if (!authorization_.empty()) headers = curl_slist_append(headers, authorization_.c_str());
    if (body != nullptr) {
      headers = curl_slist_append(headers, "Content-Type: application/json");
      headers = curl_slist_append(headers, "Expect:");
      curl_easy_setopt(curl_, CURLOPT_POSTFIELDS, body->c_str());
      curl_easy_setopt(curl_, CURLOPT_POSTFIELDSIZE, static_cast<long>(body->size()));
    }
    curl_easy_setopt(curl_, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl_, CURLOPT_URL, (url_ + path).c_str());
    curl_easy_setopt(curl_, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl_, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(curl_, CURLOPT_WRITEDATA, &receive);
    curl_easy_setopt(curl_, CURLOPT_WRITEFUNCTION, &Client::on_data);
    error_[0] = '\0';
    curl_easy_setopt(curl_, CURLOPT_ERRORBUFFER, error_);
    const CURLcode code = curl_easy_perform(curl_);
    curl_slist_free_all(headers);
    if (code != CURLE_OK) return 0;
    long status = 0;
    curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &status);
    return status;
  }
  [[nodiscard]] std::string error() const { return error_; }
  [[nodiscard]] long status_so_far() const {
    long status = 0;
    curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &status);
    return status;
  }

 private:
  static size_t on_data(char* data, size_t size, size_t n, void* receive) {
    (*static_cast<const Receive*>(receive))(std::string_view(data, size * n));
    return size * n;
  }
  std::string url_;
  std::string authorization_;
  CURL* curl_;
  char error_[CURL_ERROR_SIZE] = {};
};

/// Prints the text of a stream of server-sent events as it arrives and keeps it.
class StreamPrinter {
 public:
  void receive(std::string_view data) {
    raw_.append(data);
    size_t end = 0;
    while ((end = raw_.find('\n')) != std::string::npos) {
      line(raw_.substr(0, end));
      raw_.erase(0, end + 1);
    }
  }
  [[nodiscard]] const std::string& answer() const { return answer_; }
  [[nodiscard]] const std::string& error() const { return error_; }

 private:
  void line(const std::string& text) {
    if (!text.starts_with("data:")) return;
    const json event = json::parse(text.begin() + 5, text.end(), nullptr, false);
    if (!event.is_object()) return;  // [DONE]
    if (event.contains("error")) error_ = text_at(event["error"], "message");
    if (!event.contains("choices") || !event["choices"].is_array() || event["choices"].empty()) {
      return;
    }
    const json& choice = event["choices"][0];
    if (!choice.is_object() || !choice.contains("delta")) return;
    const std::string piece = text_at(choice["delta"], "content");
    answer_ += piece;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  }
  std::string raw_;
  std::string answer_;
  std::string error_;
};

bool wait_until_ready(Client& client, int32_t seconds) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  while (client.exchange("/ready", nullptr, [](std::string_view) {}) != 200) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

/// The first model of the server, or nothing after saying why.
std::optional<std::string> first_model(Client& client, const ChatCommand& command) {
  std::string body;
  const long status =
      client.exchange("/v1/models", nullptr, [&body](std::string_view data) { body += data; });
  const json object = json::parse(body, nullptr, false);
  if (status == 200 && object.is_object() && object.contains("data") && object["data"].is_array() &&
      !object["data"].empty()) {
    return text_at(object["data"][0], "id");
  }
  if (status == 0) {
    std::fprintf(stderr, "error: no answer from %s: %s; start a server with: troupe serve MODEL\n",
                 command.url.c_str(), client.error().c_str());
  } else {
    std::fprintf(stderr, "error: %s answered %ld: %s\n", command.url.c_str(), status,
                 error_text(body).c_str());
  }
  return std::nullopt;
}

/// Sends the conversation, prints the answer and appends it. False after saying what went wrong.
bool ask(Client& client, const ChatCommand& command, const std::string& model, json& messages) {
  json request = {{"model", model}, {"messages", messages}, {"stream", true}};
  if (command.max_tokens > 0) request["max_tokens"] = command.max_tokens;
  if (command.temperature >= 0) request["temperature"] = command.temperature;
  const std::string body = request.dump(-1, ' ', false, json::error_handler_t::replace);
  StreamPrinter printer;
  std::string refusal;
  const long status = client.exchange("/v1/chat/completions", &body, [&](std::string_view data) {
    if (client.status_so_far() == 200) {
      printer.receive(data);
    } else {
      refusal += data;
    }
  });
  std::fputs("\n", stdout);
  std::fflush(stdout);
  if (status == 200 && printer.error().empty()) {
    messages.push_back({{"role", "assistant"}, {"content", printer.answer()}});
    return true;
  }
  const std::string reason = status == 0                ? client.error()
                             : !printer.error().empty() ? printer.error()
                                                        : error_text(refusal);
  std::fprintf(stderr, "error: %s\n", reason.c_str());
  return false;
}

json opening(const ChatCommand& command) {
  json messages = json::array();
  if (!command.system.empty()) {
    messages.push_back({{"role", "system"}, {"content", command.system}});
  }
  return messages;
}

/// Line after line until the end of input. At a terminal an error does not end the conversation.
int converse(Client& client, const ChatCommand& command, const std::string& model) {
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal) std::printf("%s; /reset starts anew, /exit leaves\n", model.c_str());
  json messages = opening(command);
  std::string line;
  for (;;) {
    if (terminal) std::printf("> ");
    std::fflush(stdout);
    if (!std::getline(std::cin, line) || line == "/exit") return kExitOk;
    if (line.empty()) continue;
    if (line == "/reset") {
      messages = opening(command);
      continue;
    }
    messages.push_back({{"role", "user"}, {"content", line}});
    if (ask(client, command, model, messages)) continue;
    if (!terminal) return kExitFailed;
    messages.erase(messages.size() - 1);
  }
}

}  // namespace

int chat(const ChatCommand& command) {
  curl_global_init(CURL_GLOBAL_DEFAULT);
  Client client(command);
  if (command.wait > 0 && !wait_until_ready(client, command.wait)) {
    std::fprintf(stderr, "error: %s was not ready within %d s\n", command.url.c_str(),
                 command.wait);
    return kExitFailed;
  }
  std::optional<std::string> model = command.model;
  if (model->empty()) model = first_model(client, command);
  if (!model) return kExitFailed;
  if (command.print_model) {
    std::printf("%s\n", model->c_str());
    return kExitOk;
  }
  if (!command.has_once) return converse(client, command, *model);
  json messages = opening(command);
  messages.push_back({{"role", "user"}, {"content", command.once}});
  return ask(client, command, *model, messages) ? kExitOk : kExitFailed;
}

}  // namespace troupe
