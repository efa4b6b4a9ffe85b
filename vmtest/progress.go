// SPDX-License-Identifier: Apache-2.0

package vmtest

// Progress is told what takes time. Its methods may be called from any
// goroutine.
type Progress interface {
	// Step says what begins: "6.1: unpack".
	Step(what string)
	// Bytes says how far a download is. The total is 0 when it is not known.
	Bytes(what string, done, total int64)
}

// silent is the Progress of those who gave none.
type silent struct{}

func (silent) Step(string)                {}
func (silent) Bytes(string, int64, int64) {}

func orSilent(p Progress) Progress {
	if p == nil {
		return silent{}
	}
	return p
}
