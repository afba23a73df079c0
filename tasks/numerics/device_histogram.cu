// Counts |x| by the floats' own bits and takes the extremes of every channel, in one reading of a
// matrix [rows, channels]. Each warp counts into one of COPIES histograms in shared memory, so
// that few of them add to the same word; every thread has DEPTH loads of 16 bytes in flight.

#define BINS 2048
#define COPIES 8
#define DEPTH 4

template <bool WIDE> struct Word;

template <> struct Word<true> {  // one float32
  static constexpr unsigned SIGN = 0x80000000u;
  static __device__ void tally(unsigned* mine, unsigned word) {
    atomicAdd(mine + ((word >> 20) & 0x7ff), 1u);
  }
  static __device__ unsigned signed_max(unsigned a, unsigned b) { return max((int)a, (int)b); }
  static __device__ unsigned unsigned_max(unsigned a, unsigned b) { return max(a, b); }
};

template <> struct Word<false> {  // two bfloat16, whose bits are the upper half of a float32's
  static constexpr unsigned SIGN = 0x80008000u;
  static __device__ void tally(unsigned* mine, unsigned word) {
    atomicAdd(mine + ((word >> 4) & 0x7ff), 1u);
    atomicAdd(mine + ((word >> 20) & 0x7ff), 1u);
  }
  static __device__ unsigned signed_max(unsigned a, unsigned b) { return __vmaxs2(a, b); }
  static __device__ unsigned unsigned_max(unsigned a, unsigned b) { return __vmaxu2(a, b); }
};

// As signed integers, positive floats compare by value and beat every negative one. As unsigned
// ones, negative floats compare by magnitude and beat every positive one. NaN beats infinity.
template <bool WIDE>
__device__ void count(const uint4* __restrict__ x, int rows, int vectors, int width,
                      unsigned long long* __restrict__ bins, uint4* __restrict__ extremes) {
  using W = Word<WIDE>;
  extern __shared__ unsigned shared[];
  for (int i = threadIdx.x; i < BINS * COPIES; i += blockDim.x) shared[i] = 0;
  __syncthreads();
  unsigned* mine = shared + BINS * ((threadIdx.x >> 5) % COPIES);
  const int at_once = blockDim.x / width;
  const int column = blockIdx.x * width + threadIdx.x % width;
  const int slot = blockIdx.y * at_once + threadIdx.x / width;
  const int step = gridDim.y * at_once;
  if (threadIdx.x < at_once * width && column < vectors) {
    uint4 high = make_uint4(0, 0, 0, 0);
    uint4 low = make_uint4(W::SIGN, W::SIGN, W::SIGN, W::SIGN);
    for (long long first = slot; first < rows; first += (long long)step * DEPTH) {
      uint4 loaded[DEPTH];
#pragma unroll
      for (int k = 0; k < DEPTH; k++) {
        const long long row = first + (long long)k * step;
        if (row < rows) loaded[k] = __ldcs(x + row * vectors + column);
      }
#pragma unroll
      for (int k = 0; k < DEPTH; k++) {
        if (first + (long long)k * step >= rows) break;
        const uint4 v = loaded[k];
        W::tally(mine, v.x);
        W::tally(mine, v.y);
        W::tally(mine, v.z);
        W::tally(mine, v.w);
        high = make_uint4(W::signed_max(high.x, v.x), W::signed_max(high.y, v.y),
                          W::signed_max(high.z, v.z), W::signed_max(high.w, v.w));
        low = make_uint4(W::unsigned_max(low.x, v.x), W::unsigned_max(low.y, v.y),
                         W::unsigned_max(low.z, v.z), W::unsigned_max(low.w, v.w));
      }
    }
    // With the sign turned, unsigned order becomes signed order, which torch's `amax` knows.
    extremes[2ll * slot * vectors + column] = high;
    extremes[(2ll * slot + 1) * vectors + column] =
        make_uint4(low.x ^ W::SIGN, low.y ^ W::SIGN, low.z ^ W::SIGN, low.w ^ W::SIGN);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < BINS; i += blockDim.x) {
    unsigned sum = 0;
    for (int k = 0; k < COPIES; k++) sum += shared[BINS * k + i];
    if (sum) atomicAdd(bins + i, (unsigned long long)sum);
  }
}

extern "C" __global__ void count_float32(const uint4* x, int rows, int vectors, int width,
                                         unsigned long long* bins, uint4* extremes) {
  count<true>(x, rows, vectors, width, bins, extremes);
}

extern "C" __global__ void count_bfloat16(const uint4* x, int rows, int vectors, int width,
                                          unsigned long long* bins, uint4* extremes) {
  count<false>(x, rows, vectors, width, bins, extremes);
}
