// SPDX-License-Identifier: Apache-2.0

package mutate

import "context"

func (m *measure) netnsStage(ctx context.Context) error { return nil }
