// Command setup is what AdGuard Home needs beside it in the VM. "setup first" makes its configuration at the first boot and
// hands it its own list at every boot; "setup ready" ends when DNS is answered.
package main

import (
	"fmt"
	"os"
)

// directory is where everything of AdGuard Home's is.
const directory = "/data/adguard"

func main() {
	verbs := map[string]func() error{"first": first, "ready": ready}
	var verb func() error
	if len(os.Args) == 2 {
		verb = verbs[os.Args[1]]
	}
	if verb == nil {
		fmt.Fprintln(os.Stderr, "usage: setup first|ready")
		os.Exit(2)
	}
	if err := verb(); err != nil {
		fmt.Fprintln(os.Stderr, "setup:", err)
		os.Exit(1)
	}
}
