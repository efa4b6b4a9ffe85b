// SPDX-License-Identifier: Apache-2.0

// Package scenarios runs scenario files in worlds, and holds the library of
// those that prove the datapath.
//
// A scenario, the model and the datapath are three opinions on each frame:
// the package lets any two of them that disagree fail, and names the odd one
// out. It prints nothing; package report does. Its one invariant is that
// every run that was asked for has a Result, whatever happened to it.
package scenarios
