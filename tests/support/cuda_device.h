#pragma once

#include "gpu/cuda/device.h"

#include <gtest/gtest.h>

#include <vector>

namespace troupe::test {

/// Skips, saying so, where there is no GPU.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) GTEST_SKIP() << "no CUDA device";
  }
};

template <class T>
std::vector<T> download(const T* device, size_t n) {
  std::vector<T> out(n);
  TROUPE_CUDA(cudaMemcpy(out.data(), device, n * sizeof(T), cudaMemcpyDeviceToHost));
  return out;
}

template <class T>
cuda::DeviceBuffer<T> upload(const std::vector<T>& host) {
  cuda::DeviceBuffer<T> out(host.size());
  TROUPE_CUDA(cudaMemcpy(out.data(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  return out;
}

}  // namespace troupe::test
