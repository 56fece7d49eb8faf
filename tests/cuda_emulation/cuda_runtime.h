// Stands in for the CUDA runtime: the kernels of csrc/cuda, compiled as C++, run on the CPU. A block is a team of
// threads with a barrier; blocks run one after the other. Shared memory is filled with NaN before each block and, with
// AddressSanitizer, guarded behind the bytes that the launch asked for.
#pragma once

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#endif

#define __global__
#define __device__
#define __shared__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  explicit dim3(unsigned x = 1) : x(x) {}
};

inline thread_local dim3 threadIdx, blockIdx, blockDim;
inline thread_local std::barrier<>* block_barrier = nullptr;

inline void __syncthreads() { block_barrier->arrive_and_wait(); }

enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
using cudaStream_t = void*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

constexpr size_t kSharedLimit = 227 * 1024;  // of compute capability 9.0

namespace fastclr::cuda {
extern __align__(16) double shared_memory[kSharedLimit / 8 + 1024];
}

// of every function: the last that was asked for
inline std::map<void*, size_t> shared_attributes;

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = static_cast<int>(kSharedLimit);
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  if (bytes > static_cast<int>(kSharedLimit)) return cudaErrorInvalidConfiguration;
  shared_attributes[reinterpret_cast<void*>(kernel)] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments... arguments) {
  const size_t allowed = std::max<size_t>(48 * 1024, shared_attributes[reinterpret_cast<void*>(kernel)]);
  if (config->dynamicSmemBytes > allowed || config->gridDim.x == 0) return cudaErrorInvalidConfiguration;
  // eight threads stand for the whole block: the kernels work with any power of two. Without a barrier they must cover
  // the block one by one, so the parameter kernel, which has no loop, keeps its size.
  const bool loops = config->dynamicSmemBytes > 0;
  const unsigned count = loops ? std::min(8u, config->blockDim.x) : config->blockDim.x;
  char* shared = reinterpret_cast<char*>(fastclr::cuda::shared_memory);
  for (unsigned block = 0; block < config->gridDim.x; ++block) {
    ASAN_UNPOISON_MEMORY_REGION(shared, sizeof(fastclr::cuda::shared_memory));
    std::memset(shared, 0xFF, config->dynamicSmemBytes);
    ASAN_POISON_MEMORY_REGION(
        shared + config->dynamicSmemBytes, sizeof(fastclr::cuda::shared_memory) - config->dynamicSmemBytes);
    std::barrier<> barrier(count);
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < count; ++thread) {
      threads.emplace_back([&, thread] {
        threadIdx = dim3(thread);
        blockIdx = dim3(block);
        blockDim = dim3(count);
        block_barrier = &barrier;
        kernel(arguments...);
        barrier.arrive_and_drop();
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  return cudaSuccess;
}
