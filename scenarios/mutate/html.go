// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"errors"
	"io"
)

func (r *Report) HTML(out io.Writer) error { return errors.New("todo") }
