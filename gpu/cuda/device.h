#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

/// Everything of one rank that runs on an NVIDIA GPU. Activations are bf16 where the CPU's are
/// fp32, and a step's metadata lives on the device, so this folder has its own ops beside those of
/// gpu/ops; tests hold each against its CPU twin.
namespace troupe::cuda {

/// Throws DeviceError with call, place and CUDA's own words when `code` is not cudaSuccess.
void check(cudaError_t code, const char* call, const char* file, int line);

/// Device memory for `count` values of T. Movable, not copyable; contents start undefined.
template <class T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t count);
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }

  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] size_t bytes() const { return size_ * sizeof(T); }

 private:
  void swap(DeviceBuffer& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace troupe::cuda

#define TROUPE_CUDA(call) ::troupe::cuda::check((call), #call, __FILE__, __LINE__)

template <class T>
troupe::cuda::DeviceBuffer<T>::DeviceBuffer(size_t count) : size_(count) {
  if (count > 0) TROUPE_CUDA(cudaMalloc(&data_, count * sizeof(T)));
}
