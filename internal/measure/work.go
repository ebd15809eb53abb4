// SPDX-License-Identifier: Apache-2.0

package measure

// A Work is what the processor counted, in user and kernel mode. What the kernel does
// in softirqs on top of a thread is that thread's.
type Work struct {
	UserCycles         float64 `json:"user_cycles"`
	KernelCycles       float64 `json:"kernel_cycles"`
	UserInstructions   float64 `json:"user_instructions"`
	KernelInstructions float64 `json:"kernel_instructions"`
}

// Cycles returns those of both modes.
func (w Work) Cycles() float64 { return w.UserCycles + w.KernelCycles }

// Add returns the sum of both.
func (w Work) Add(b Work) Work {
	return Work{w.UserCycles + b.UserCycles, w.KernelCycles + b.KernelCycles,
		w.UserInstructions + b.UserInstructions, w.KernelInstructions + b.KernelInstructions}
}

// Per returns w divided by n.
func (w Work) Per(n float64) Work {
	return Work{w.UserCycles / n, w.KernelCycles / n, w.UserInstructions / n, w.KernelInstructions / n}
}
