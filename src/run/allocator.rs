//! What the C library's allocator is told. A service learns in bursts: what a burst took must go back to the system, not
//! stay with whichever of the allocator's many heaps it was cut from. With `model/kernel/unchecked` and `kafka/source/lane`
//! the only unsafe code.

/// Pieces of this many bytes and more are mapped from the system and go back to it at once; left to itself, the allocator
/// raises this to 32 MiB when the first large piece is freed. What a batch of records takes is smaller: mapped anew for each,
/// it costs a seventh of all the work of an ingest in page faults.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: libc::c_int = 4 << 20;
/// Free bytes at the end of a heap beyond which they go back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 16 << 20;
/// Heaps that threads share; left to itself, the allocator makes eight a core.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: libc::c_int = 2;

/// Records that may leave some ten megabytes behind: most of them pass through the heaps in small pieces.
const MUCH: u64 = 50_000;

/// Makes the allocator keep little of what is freed. To be called before other threads start. Does nothing where the C
/// library is not glibc.
pub fn keep_little() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [(libc::M_ARENA_MAX, HEAPS), (libc::M_MMAP_THRESHOLD, MAPPED_FROM), (libc::M_TRIM_THRESHOLD, KEPT)] {
        // SAFETY: `mallopt` takes two numbers and only sets parameters of later allocations; what it does not know it
        // refuses by its result, which may be ignored: nothing depends on these but the memory taken.
        #[expect(unsafe_code, reason = "a call of the C library; see above")]
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}

/// Gives free memory back to the system, also from between pieces that are in use, after work on so many records; after
/// little work there is little to give. Takes milliseconds. Does nothing where the C library is not glibc.
pub fn give_back_after(records: u64) {
    if records < MUCH {
        return;
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` touches no memory that is in use, and takes the allocator's own locks.
    #[expect(unsafe_code, reason = "a call of the C library; see above")]
    unsafe {
        libc::malloc_trim(0);
    }
}
