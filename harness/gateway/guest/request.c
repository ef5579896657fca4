/* A request's fields, parsed from its frame, and the fields of a reply. */
#include "envd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static char *text_of(char **room, const struct field *field)
{
    char *text = *room;

    memcpy(text, field->bytes, field->length);
    text[field->length] = 0;
    *room += field->length + 1;
    return text;
}

int request_parse(const struct frame *frame, struct request *out)
{
    const uint8_t *at = frame->payload, *end = at + frame->length;
    size_t arguments = 0, variables = 0;
    struct field field;
    char *room;
    int more;

    *out = (struct request){.path = "", .target = "", .user = "", .cwd = "", .label = ""};
    /* One allocation for all text: a field's header of five bytes leaves room for each terminator. */
    room = out->text = malloc(frame->length + 1);
    out->arguments = calloc(frame->length / 5 + 2, sizeof(char *));
    out->environment = calloc(frame->length / 5 + 10, sizeof(char *));
    if (!room || !out->arguments || !out->environment)
        return ENOMEM;
    while ((more = field_next(&at, end, &field)) > 0)
        switch (field.tag) {
        case TAG_PATH: out->path = text_of(&room, &field); break;
        case TAG_TARGET: out->target = text_of(&room, &field); break;
        case TAG_USER: out->user = text_of(&room, &field); break;
        case TAG_CWD: out->cwd = text_of(&room, &field); break;
        case TAG_LABEL: out->label = text_of(&room, &field); break;
        case TAG_ARG: out->arguments[arguments++] = text_of(&room, &field); break;
        case TAG_ENV: out->environment[variables++] = text_of(&room, &field); break;
        case TAG_DATA: out->data = field.bytes; out->data_length = field.length; break;
        case TAG_PID: out->pid = field_number(&field); break;
        case TAG_OFFSET: out->offset = field_number(&field); break;
        case TAG_LENGTH: out->length = field_number(&field); break;
        case TAG_MODE: out->mode = field_number(&field); break;
        case TAG_COLUMNS: out->columns = field_number(&field); out->pty = 1; break;
        case TAG_ROWS: out->rows = field_number(&field); break;
        case TAG_DEPTH: out->depth = field_number(&field); break;
        case TAG_HANDLE: out->handle = field_number(&field); break;
        case TAG_NUMBER: out->number = field_number(&field); break;
        case TAG_TRUNCATE: out->truncate = 1; break;
        case TAG_RECURSIVE: out->recursive = 1; break;
        case TAG_KEEP_INPUT: out->keep_input = 1; break;
        default: return EINVAL;
        }
    return more < 0 ? EINVAL : 0;
}

void request_free(struct request *request)
{
    free(request->text);
    free(request->arguments);
    free(request->environment);
}

void reply_bytes(struct reply *reply, uint8_t tag, const void *bytes, size_t length)
{
    uint32_t word = (uint32_t)length;

    if (reply->length + 5 + length > sizeof reply->bytes)
        return;
    reply->bytes[reply->length] = tag;
    memcpy(reply->bytes + reply->length + 1, &word, 4);
    memcpy(reply->bytes + reply->length + 5, bytes, length);
    reply->length += 5 + length;
}

void reply_number(struct reply *reply, uint8_t tag, uint64_t number)
{
    reply_bytes(reply, tag, &number, sizeof number);
}

void reply_text(struct reply *reply, uint8_t tag, const char *text)
{
    reply_bytes(reply, tag, text, strlen(text));
}
