// one definition of "inline on host and device" for the headers in this folder
#pragma once

#if defined(__CUDACC__)
#define FASTCLR_HD __host__ __device__ __forceinline__
#else
// always_inline: a function cloned per instruction set must inline its helpers to vectorise them
#define FASTCLR_HD inline __attribute__((always_inline))
#endif
