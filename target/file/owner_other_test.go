//go:build !unix

package file_test

import (
	"testing"

	"github.com/regkeeper/regkeeper/dockerconfig"
)

func checkOwner(*testing.T, *dockerconfig.Owner, ...string) {}
