# A folder of scenes by make: what is newer than its result is made again, and nothing else.
#
#   make -f examples/folder.mk IN=hazy OUT=clear OPTIONS='--model mgbl-s'
#
# All that is to be done goes to one batch, so the model is loaded once. A file appears under its name only when
# it is complete, so make never takes half of one for done.

IN ?= hazy
OUT ?= clear
OPTIONS ?=

scenes := $(shell find $(IN) -type f -name '*.tif')

.PHONY: all
all: $(OUT)/.made

$(OUT)/.made: $(scenes)
	@mkdir -p $(OUT)
	@printf '%s\n' $? | dehazexl batch --from-file - --base $(IN) --redo-changed $(OPTIONS) $(OUT)
	@touch $@
